# SPDX-License-Identifier: Apache-2.0
"""What `docker run` asks for, as the spec of a task. Pure."""

from __future__ import annotations

from typing import Any

from scheduler.errors import SpecError
from scheduler.model.base import is_unset, parse
from scheduler.model.service import TaskSpec

SECOND = 1_000_000_000
CONFIG = {
    "Hostname": "Hostname",
    "User": "User",
    "Env": "Env",
    "Image": "Image",
    "WorkingDir": "Dir",
    "Entrypoint": "Command",
    "Cmd": "Args",
    "Labels": "Labels",
    "StopSignal": "StopSignal",
    "Tty": "TTY",
    "Healthcheck": "Healthcheck",
}
"""Docker's fields of a container, and those of a task's container."""
HOST_CONFIG = {
    "CapAdd": "CapabilityAdd",
    "CapDrop": "CapabilityDrop",
    "Init": "Init",
    "ReadonlyRootfs": "ReadOnly",
    "ExtraHosts": "Hosts",
}
UNUSED = {"NetworkingConfig", "HostConfig", "StopTimeout"}
LIMITS = {"Memory": "MemoryBytes", "NanoCpus": "NanoCPUs", "PidsLimit": "Pids"}
NETWORKS = ("", "default", "bridge", "flatmesh", "host")
SAYS_NOTHING: dict[str, Any] = {
    "MemorySwappiness": -1,
    "ConsoleSize": [0, 0],
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "PidsLimit": -1,
}
"""What the client sends where the user said nothing."""


def container_task(given: dict[str, Any]) -> TaskSpec:
    """The task of a container. Raises SpecError, which names what is not supported."""
    container: dict[str, Any] = {}
    for name, value in given.items():
        if name.startswith("Attach") and value:
            raise SpecError(
                "attaching to a container is not supported: docker run --detach, then docker logs "
                "--follow"
            )
        if name in CONFIG:
            container[CONFIG[name]] = value
        elif name not in UNUSED and not is_unset(value):
            raise SpecError(f"{name} of a container is not supported: leave it out")
    if given.get("StopTimeout") is not None:
        container["StopGracePeriod"] = int(given["StopTimeout"]) * SECOND
    host = given.get("HostConfig") or {}
    networks, limits = [], {}
    for name, value in host.items():
        if name in HOST_CONFIG:
            container[HOST_CONFIG[name]] = value
        elif name == "NetworkMode" and value in NETWORKS:
            networks = [{"Target": "host"}] if value == "host" else []
        elif name in LIMITS and isinstance(value, int) and value >= 0:
            limits[LIMITS[name]] = value
        elif name == "Binds" and isinstance(value, list):
            container["Mounts"] = [_bind(str(one)) for one in value]
        elif not is_unset(value) and value != SAYS_NOTHING.get(name):
            raise SpecError(f"HostConfig.{name} is not supported: leave it out")
    spec = {
        "ContainerSpec": container,
        "Resources": {"Limits": limits},
        "RestartPolicy": {"Condition": "none"},
        "Networks": networks,
    }
    return parse(TaskSpec, spec)


def _bind(text: str) -> dict[str, Any]:
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or options not in ("", "rw", "ro"):
        raise SpecError(f"HostConfig.Binds: {text!r} is not /SOURCE:/TARGET[:ro]")
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": options == "ro"}
