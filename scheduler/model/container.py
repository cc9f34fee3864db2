# SPDX-License-Identifier: Apache-2.0
"""A container of a task, with Docker's field names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from scheduler.model.base import Document

Nanoseconds = Annotated[int, Field(ge=0)]


class BindOptions(Document):
    """How a directory of the node is mounted."""

    propagation: str = "rprivate"


class TmpfsOptions(Document):
    """A mount in memory."""

    size_bytes: int = 0
    mode: int = 0


class Mount(Document):
    """A mount of a container."""

    type: Literal["bind", "tmpfs"] = "bind"
    source: str = ""
    target: str
    read_only: bool = False
    consistency: Literal["default", "consistent", "cached", "delegated", ""] = "default"
    bind_options: BindOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HealthConfig(Document):
    """How a container's health is checked; durations in nanoseconds, 0: the default."""

    test: list[str] = []
    """["NONE"], ["CMD", ...], ["CMD-SHELL", line]; ours: ["HTTP", url path], ["TCP", port]."""
    interval: Nanoseconds = 0
    timeout: Nanoseconds = 0
    retries: Annotated[int, Field(ge=0)] = 0
    start_period: Nanoseconds = 0
    start_interval: Nanoseconds = 0


class FileTarget(Document):
    """Where a secret or config is in a container."""

    name: str
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444


class SecretReference(Document):
    """A secret that a container gets as a file below /run/secrets."""

    file: FileTarget
    secret_id: str = Field(alias="SecretID")
    secret_name: str = ""


class ConfigReference(Document):
    """A config that a container gets as a file."""

    file: FileTarget
    config_id: str = Field(alias="ConfigID")
    config_name: str = ""


class DNSConfig(Document):
    """The container's resolv.conf."""

    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []


class Ulimit(Document):
    """A resource limit (setrlimit(2))."""

    name: str
    hard: int
    soft: int


class ContainerSpec(Document):
    """What runs in a container."""

    image: str = ""
    name: str = ""
    """Of a container beside the first one in a pod."""
    labels: dict[str, str] = {}
    command: list[str] = []
    args: list[str] = []
    hostname: str = ""
    env: list[str] = []
    dir: str = ""
    user: str = ""
    groups: list[str] = []
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: list[Mount] = []
    stop_grace_period: Nanoseconds | None = None
    health_check: HealthConfig | None = None
    hosts: list[str] = []
    dns_config: DNSConfig | None = Field(default=None, alias="DNSConfig")
    secrets: list[SecretReference] = []
    configs: list[ConfigReference] = []
    sysctls: dict[str, str] = {}
    capability_add: list[str] = []
    capability_drop: list[str] = []
    ulimits: list[Ulimit] = []


class LogDriver(Document):
    """Where output goes; only files of the node are served."""

    name: Literal["json-file", "local", "none", ""] = ""
    options: dict[str, str] = {}


class Limits(Document):
    """What a task may use at most; 0: no limit."""

    nano_cpus: Annotated[int, Field(ge=0, alias="NanoCPUs")] = 0
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    pids: Annotated[int, Field(ge=0)] = 0


class Reservations(Document):
    """What a node must have free for a task."""

    nano_cpus: Annotated[int, Field(ge=0, alias="NanoCPUs")] = 0
    memory_bytes: Annotated[int, Field(ge=0)] = 0


class Resources(Document):
    """Limits and reservations of a task."""

    limits: Limits = Limits()
    reservations: Reservations = Reservations()


Port = Annotated[PositiveInt, Field(le=65535)]
