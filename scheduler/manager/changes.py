# SPDX-License-Identifier: Apache-2.0
"""What reconciling decides: values, which the leader turns into writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.model.service import Service
from scheduler.model.task import Task, TaskState


@dataclass(frozen=True, slots=True)
class Create:
    """A new task for a place of a service."""

    slot: int
    """0: of a global service."""
    node: str = ""
    """Of a global service; empty: placement chooses."""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """A task is to end; draining first, where it has an endpoint."""

    task: Task
    reason: str
    desired: TaskState = TaskState.SHUTDOWN
    at_once: bool = False
    """Without draining."""


@dataclass(frozen=True, slots=True)
class Forget:
    """A task that ended is deleted from etcd."""

    task: Task


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A service's document changes: how its update goes, or a rollback."""

    service: Service


Change = Create | Stop | Forget | Rewrite


@dataclass(slots=True)
class Plan:
    """Changes, and when to look again although nothing happened."""

    changes: list[Change] = field(default_factory=list)
    wake: float | None = None
    """Monotonic time."""

    def wake_at(self, when: float) -> None:
        """Look again then, or before."""
        self.wake = when if self.wake is None else min(self.wake, when)

    def add(self, other: Plan) -> None:
        """Take in another plan."""
        self.changes += other.changes
        if other.wake is not None:
            self.wake_at(other.wake)
