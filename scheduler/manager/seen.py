# SPDX-License-Identifier: Apache-2.0
"""When this leader first saw something of a task, on its own monotonic clock.

Timestamps in etcd are for people: other hosts' clocks may be wrong, and any clock may jump. A new
leader begins to count anew, so it waits rather longer than shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.model.task import Task, TaskStatus


@dataclass(slots=True)
class Seen:
    """Monotonic times by task id."""

    serving: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    draining: dict[str, float] = field(default_factory=dict)
    pending: dict[str, float] = field(default_factory=dict)

    def look(self, task: Task | None, task_id: str, status: TaskStatus | None, now: float) -> None:
        """Take note of a task as it is now."""
        if task is None:
            for times in (self.serving, self.ended, self.draining, self.pending):
                times.pop(task_id, None)
            return
        if status is not None and status.state.ended:
            self.ended.setdefault(task_id, now)
        elif status is not None and status.serves:
            self.serving.setdefault(task_id, now)
        else:
            self.serving.pop(task_id, None)
        if task.draining:
            self.draining.setdefault(task_id, now)
        if not task.node:
            self.pending.setdefault(task_id, now)
        else:
            self.pending.pop(task_id, None)
