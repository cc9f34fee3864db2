# SPDX-License-Identifier: Apache-2.0
"""What a runtime driver offers: pods of one or several containers that share one network.

A pod is created (its network namespace and addresses), started (its containers) and removed once.
A pod is not started a second time: the scheduler replaces a task, and so a pod, by a new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

HOST_IMAGE = "host"
"""The image name that means the host's own files, read-only (driver `process`)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file, a directory or a tmpfs inside of a container."""

    kind: str
    """`bind` or `tmpfs`."""
    target: str
    source: str = ""
    read_only: bool = False
    size: int = 0
    """Of a tmpfs, in bytes; 0: the kernel's default."""
    mode: int = 0o1777
    """Of a tmpfs."""


@dataclass(frozen=True, slots=True)
class File:
    """A secret or a config, readable in the container as a file on a tmpfs."""

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use at most; 0: no limit."""

    nano_cpus: int = 0
    """In billionths of a processor."""
    memory: int = 0
    """In bytes."""
    pids: int = 0


@dataclass(frozen=True, slots=True)
class LogRotation:
    """How much of a container's output is kept."""

    max_bytes: int = 10 * 1024 * 1024
    """Of one file."""
    max_files: int = 3


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """One container of a pod."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    """Replaces the image's entrypoint."""
    args: tuple[str, ...] = ()
    """Replaces the image's command."""
    env: tuple[str, ...] = ()
    """`NAME=VALUE` each."""
    user: str = ""
    """`USER[:GROUP]`, names of the image or numbers."""
    groups: tuple[str, ...] = ()
    workdir: str = ""
    mounts: tuple[Mount, ...] = ()
    files: tuple[File, ...] = ()
    limits: Limits = Limits()
    init: bool | None = None
    """Whether process 1 reaps orphans and the command runs beside it; None: as the driver does."""
    tty: bool = False
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    log: LogRotation = LogRotation()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to the pod (publish mode `host`)."""

    host_port: int
    container_port: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Dns:
    """What resolv.conf of the containers says; empty: as on the host."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodConfig:
    """A pod as the worker wants it."""

    id: str
    name: str
    containers: tuple[ContainerConfig, ...]
    hostname: str = ""
    networks: tuple[str, ...] = ()
    """Names of CNI networks, the first is eth0; none: the first one that is configured."""
    host_network: bool = False
    ports: tuple[PortMapping, ...] = ()
    dns: Dns = Dns()
    hosts: tuple[tuple[str, str], ...] = ()
    """More lines of /etc/hosts: address, names."""
    labels: Mapping[str, str] = field(default_factory=dict)


class ContainerState(StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """One container as the runtime sees it."""

    name: str
    state: ContainerState
    pid: int = 0
    """As the host counts; 0 where none runs or the runtime does not tell."""
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    """128 and the signal's number where a signal ended it."""
    oom_killed: bool = False
    error: str = ""
    """Why it could not start, or how it was lost."""


@dataclass(frozen=True, slots=True)
class PodStatus:
    """One pod as the runtime sees it."""

    id: str
    name: str
    containers: tuple[ContainerStatus, ...]
    addresses: tuple[str, ...] = ()
    """`ADDRESS/PREFIX` each, the first network's first."""
    created_at: float = 0.0
    network_addresses: tuple[tuple[str, str], ...] = ()
    """Network and `ADDRESS/PREFIX`, in the same order."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether any container of it runs."""
        return any(c.state is ContainerState.RUNNING for c in self.containers)


@dataclass(frozen=True, slots=True)
class ExecConfig:
    """A command that is to run inside of a running container."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    tty: bool = False
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """A piece of a container's output: a line, with its newline, or a part of a long one."""

    time: str
    """RFC 3339 with nanoseconds."""
    stream: str
    """`stdout` or `stderr`."""
    data: bytes


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """What one container has used until now."""

    name: str
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    """Without the file pages that the kernel can drop at once."""
    memory_limit: int = 0
    """0: none."""
    pids: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceStats:
    """What went through one interface of a pod, as the pod sees it."""

    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class PodStats:
    """What one pod has used until now."""

    id: str
    containers: tuple[ContainerStats, ...]
    interfaces: tuple[InterfaceStats, ...] = ()


class ExecProcess(Protocol):
    """A command that was started inside of a container."""

    async def read(self) -> tuple[str, bytes] | None:
        """Next output: stream and bytes; None at the end."""

    async def write(self, data: bytes) -> None:
        """Give it input; without bytes: the input ends."""

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal's new size."""

    async def wait(self) -> int:
        """Exit code."""

    async def kill(self) -> None:
        """End it."""


class Runtime(Protocol):
    """A driver. Every call may raise RuntimeCallError."""

    @property
    def name(self) -> str:
        """`process` or `containerd`."""

    async def open(self) -> None:
        """Find, and take over, what runs already; called once before anything else."""

    async def close(self) -> None:
        """Let go; pods go on running."""

    async def version(self) -> str:
        """Of the runtime, for people."""

    async def create(self, pod: PodConfig) -> PodStatus:
        """Make the pod and its network; nothing is left where it fails."""

    async def start(self, pod: PodConfig) -> None:
        """Start the containers of a created pod."""

    async def stop(self, pod_id: str, grace: float) -> None:
        """Send each container its stop signal, after `grace` seconds SIGKILL; don't wait."""

    async def kill(self, pod_id: str, signal: str) -> None:
        """Send a signal to each container."""

    async def remove(self, pod_id: str, *, keep_logs: bool = False) -> None:
        """End and forget the pod, its network and its files; one that is gone is no error.

        With `keep_logs` its output can be read until `collect_garbage` is not told its id.
        """

    async def list(self) -> list[PodStatus]:
        """All pods of this node."""

    async def status(self, pod_id: str) -> PodStatus:
        """One pod; raises PodNotFoundError."""

    async def wait(self, pod_id: str, known: PodStatus) -> PodStatus:
        """Return when the status differs from `known`; raises PodNotFoundError once removed."""

    async def exec(self, pod_id: str, container: str, config: ExecConfig) -> ExecProcess:
        """Run a command inside of a running container."""

    def logs(
        self, pod_id: str, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """Kept output, the last `tail` lines of it; with `follow` until the container ends."""

    async def stats(self, pod_id: str) -> PodStats:
        """What the pod uses."""

    async def collect_garbage(self, known: Collection[str]) -> None:
        """Remove what neither a pod nor these ids need: networks, cgroups, files, logs."""
