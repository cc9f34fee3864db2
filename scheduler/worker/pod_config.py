# SPDX-License-Identifier: Apache-2.0
"""A task as a pod: what its spec, with secrets, configs and names, means to a runtime. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.errors import SpecError
from scheduler.model.container import ConfigReference, ContainerSpec, SecretReference
from scheduler.model.service import TaskSpec
from scheduler.model.task import Task
from scheduler.runtime.protocol import (
    ContainerConfig,
    Dns,
    File,
    Limits,
    LogRotation,
    Mount,
    PodConfig,
    PortMapping,
)

MAIN = "main"
"""Name of a task's first container."""
SECOND = 1_000_000_000
GRACE = 10.0
"""Seconds until SIGKILL, where the spec does not say (as Docker)."""
PLACEHOLDER = re.compile(r"\{\{\s*\.([A-Za-z.]+)(?:\s+\"([^\"]*)\")?\s*\}\}")
SIZE = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a task's spec refers to."""

    node_id: str
    hostname: str
    service_name: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    """Contents of secrets and configs by id, base64."""


def task_name(task: Task, service_name: str) -> str:
    """As `docker service ps` shows it, with the id where a name is used twice."""
    if not task.service:
        return task.name or task.id
    return f"{service_name or task.service}.{task.slot or task.node}"


def pod_config(task: Task, spec: TaskSpec, around: Surroundings) -> PodConfig:
    """What the runtime is asked for. Raises SpecError."""
    main = spec.container_spec
    names = _names(task, around)
    containers = tuple(
        _container(one, number, spec, around, names)
        for number, one in enumerate((main, *spec.sidecars))
    )
    if len({c.name for c in containers}) != len(containers):
        raise SpecError("two containers of the task have the same name")
    dns = main.dns_config
    hostname = filled(main.hostname, names)
    if len(hostname) > 63:
        raise SpecError(f"Hostname {hostname!r} is longer than 63 characters")
    return PodConfig(
        id=task.id,
        name=task_name(task, around.service_name),
        containers=containers,
        hostname=hostname or task.id[:12],
        host_network=any(n.target == "host" for n in spec.networks),
        ports=tuple(PortMapping(p.published, p.target, p.protocol) for p in task.host_ports),
        dns=Dns(tuple(dns.nameservers), tuple(dns.search), tuple(dns.options)) if dns else Dns(),
        hosts=tuple(_host(line) for line in main.hosts),
        labels={"service": task.service, "node": around.node_id},
    )


def grace_period(spec: TaskSpec) -> float:
    """Seconds from a task's stop signal to SIGKILL."""
    given = spec.container_spec.stop_grace_period
    return GRACE if given is None else given / SECOND


def references(spec: TaskSpec) -> tuple[set[str], set[str]]:
    """Ids of the secrets and of the configs that a task needs."""
    containers = (spec.container_spec, *spec.sidecars)
    return (
        {s.secret_id for c in containers for s in c.secrets},
        {r.config_id for c in containers for r in c.configs},
    )


def _names(task: Task, around: Surroundings) -> dict[str, str]:
    return {
        "Service.ID": task.service,
        "Service.Name": around.service_name,
        "Node.ID": around.node_id,
        "Node.Hostname": around.hostname,
        "Task.ID": task.id,
        "Task.Name": f"{task_name(task, around.service_name)}.{task.id}",
        "Task.Slot": str(task.slot or task.node),
    }


def filled(text: str, names: Mapping[str, str]) -> str:
    """Docker's placeholders (`{{.Task.Slot}}`) replaced. Raises SpecError for an unknown one."""

    def replace(match: re.Match[str]) -> str:
        if match[1] not in names:
            raise SpecError(
                f"placeholder {match[0]} is not supported: known are {', '.join(names)}"
            )
        return names[match[1]]

    return PLACEHOLDER.sub(replace, text)


def _container(
    spec: ContainerSpec,
    number: int,
    whole: TaskSpec,
    around: Surroundings,
    names: Mapping[str, str],
) -> ContainerConfig:
    limits = whole.resources.limits
    if spec.sysctls:
        raise SpecError("Sysctls is not supported: leave it out")
    if spec.ulimits:
        raise SpecError("Ulimits is not supported: leave it out")
    files = [_secret(r, around) for r in spec.secrets] + [_config(r, around) for r in spec.configs]
    return ContainerConfig(
        name=MAIN if number == 0 else spec.name or f"sidecar{number}",
        image=spec.image,
        command=tuple(spec.command),
        args=tuple(spec.args),
        env=tuple(filled(e, names) for e in spec.env),
        user=spec.user,
        groups=tuple(spec.groups),
        workdir=spec.dir,
        mounts=tuple(
            Mount(
                m.type,
                m.target,
                filled(m.source, names),
                m.read_only,
                m.tmpfs_options.size_bytes if m.tmpfs_options else 0,
                (m.tmpfs_options.mode if m.tmpfs_options else 0) or 0o1777,
            )
            for m in spec.mounts
        ),
        files=tuple(files),
        # the limits are the task's: its first container has them, the others are beside it
        limits=Limits(limits.nano_cpus, limits.memory_bytes, limits.pids),
        init=spec.init,
        tty=spec.tty,
        read_only=spec.read_only,
        cap_add=tuple(spec.capability_add),
        cap_drop=tuple(spec.capability_drop),
        stop_signal=spec.stop_signal or "SIGTERM",
        log=_rotation(whole),
    )


def _content(object_id: str, name: str, around: Surroundings) -> bytes:
    try:
        return base64.b64decode(around.data[object_id], validate=True)
    except KeyError:
        raise SpecError(f"{name}: there is no secret or config {object_id}") from None
    except binascii.Error as error:
        raise SpecError(f"{name}: {error}") from None


def _owner(text: str, where: str) -> int:
    if not text.isdigit():
        raise SpecError(f"{where}: {text!r} is no number of a user or group")
    return int(text)


def _secret(reference: SecretReference, around: Surroundings) -> File:
    file, name = reference.file, reference.secret_name
    target = file.name if file.name.startswith("/") else f"/run/secrets/{file.name}"
    content = _content(reference.secret_id, name, around)
    return File(target, content, file.mode, _owner(file.uid, name), _owner(file.gid, name))


def _config(reference: ConfigReference, around: Surroundings) -> File:
    file, name = reference.file, reference.config_name
    target = file.name if file.name.startswith("/") else f"/{file.name}"
    content = _content(reference.config_id, name, around)
    return File(target, content, file.mode, _owner(file.uid, name), _owner(file.gid, name))


def _host(line: str) -> tuple[str, str]:
    """Swarm writes `ADDRESS NAME...`, `docker run` `NAME:ADDRESS`."""
    words = line.split()
    if len(words) > 1:
        return words[0], " ".join(words[1:])
    name, _, address = line.partition(":")
    if not name or not address:
        raise SpecError(f"Hosts: {line!r} is neither `ADDRESS NAME` nor `NAME:ADDRESS`")
    return address, name


def _rotation(spec: TaskSpec) -> LogRotation:
    options = spec.log_driver.options if spec.log_driver else {}
    default = LogRotation()
    size, files = options.get("max-size"), options.get("max-file")
    found = SIZE.fullmatch(size) if size else None
    if size and not found:
        raise SpecError(f"LogDriver.Options: max-size {size!r} is no size such as 10m")
    if files and not files.isdigit():
        raise SpecError(f"LogDriver.Options: max-file {files!r} is no number")
    return LogRotation(
        int(found[1]) * UNITS[found[2].lower()] if found else default.max_bytes,
        int(files) if files else default.max_files,
    )
