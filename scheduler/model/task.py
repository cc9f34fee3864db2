# SPDX-License-Identifier: Apache-2.0
"""Tasks in memory: light, as there may be 100,000 of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class TaskState(enum.IntEnum):
    """Docker's states of a task, in their order: a task never goes back."""

    NEW = 0
    PENDING = 1
    ASSIGNED = 2
    ACCEPTED = 3
    PREPARING = 4
    STARTING = 5
    RUNNING = 6
    COMPLETE = 7
    SHUTDOWN = 8
    FAILED = 9
    REJECTED = 10
    ORPHANED = 11
    REMOVE = 12

    @property
    def docker(self) -> str:
        """As Docker's API writes it."""
        return self.name.lower()

    @property
    def ended(self) -> bool:
        """Whether nothing of the task runs any more."""
        return self > TaskState.RUNNING


STATES = {state.docker: state for state in TaskState}


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that leads to a task (publish mode host)."""

    protocol: str
    published: int
    target: int


@dataclass(frozen=True, slots=True)
class Task:
    """What the managers want of a task: pending/<id> or tasks/<node>/<id>."""

    id: str
    service: str
    """Id of its service; empty: a container task, whose spec is specs/container/<id>."""
    slot: int
    """From 1; of a global service's task 0: its slot is its node."""
    spec_version: int
    node: str = ""
    """Empty: pending."""
    desired: TaskState = TaskState.RUNNING
    """RUNNING; SHUTDOWN: stop it; REMOVE: stop and forget it."""
    draining: bool = False
    """Whether it takes no new connections, as it will be stopped soon."""
    created: float = 0.0
    """Seconds since 1970, for the user; nothing is decided by it."""
    attempt: int = 0
    """How many tasks of this slot failed in a row before it."""
    reason: str = ""
    """Why it is pending, or why it was stopped."""
    host_ports: tuple[HostPort, ...] = ()
    name: str = ""
    """Of a container task."""
    version: int = 0
    """mod_revision of its key."""

    @property
    def place(self) -> str:
        """What at most one running task may have: its slot, of a global service its node."""
        return str(self.slot) if self.slot else self.node


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What a worker observed: status/<node>/<task>."""

    state: TaskState
    timestamp: float = 0.0
    """Seconds since 1970."""
    message: str = ""
    err: str = ""
    pid: int = 0
    exit_code: int | None = None
    container: str = ""
    """The runtime's id of the container."""
    addresses: tuple[str, ...] = ()
    health: str = ""
    """"" (no check), starting, healthy or unhealthy."""
    ports: tuple[HostPort, ...] = field(default=())
    version: int = 0

    @property
    def serves(self) -> bool:
        """Whether it may be an endpoint of its service."""
        return self.state is TaskState.RUNNING and self.health in ("", "healthy")
