# SPDX-License-Identifier: Apache-2.0
"""What the worker keeps of its tasks on disk, so that it goes on after a restart without etcd.

A file per task: the task, its spec (secrets are only named in it) and its status.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from scheduler.errors import SpecError
from scheduler.model.service import TaskSpec
from scheduler.model.task import Task, TaskStatus
from scheduler.store import codec

log = logging.getLogger("scheduler.worker")


@dataclass(frozen=True, slots=True)
class Record:
    """A task of this node."""

    task: Task
    spec: TaskSpec | None
    status: TaskStatus


class Records:
    """A directory with a file per task."""

    def __init__(self, directory: Path, node: str) -> None:
        self.directory, self._node = directory, node

    def write(self, record: Record) -> None:
        """Keep it; a crash leaves the old file or the new one. A full disk is only told."""
        data = codec.dumps(
            {
                "task": codec.loads(codec.encode_task(record.task)),
                "spec": record.spec.document() if record.spec is not None else None,
                "status": codec.loads(codec.encode_status(record.status)),
            }
        )
        path = self.directory / f"{record.task.id}.json"
        temporary = path.with_suffix(".new")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as out:
                out.write(data)
            temporary.replace(path)
        except OSError as error:
            log.warning("%s: %s: a restart of the worker may lose this task", path, error.strerror)

    def remove(self, task: str) -> None:
        """Forget it."""
        (self.directory / f"{task}.json").unlink(missing_ok=True)

    def list(self) -> list[Record]:
        """All of them; what can't be read is left out."""
        found = []
        for path in sorted(self.directory.glob("*.json")):
            try:
                data = codec.loads(path.read_bytes())
                spec = data["spec"]
                found.append(
                    Record(
                        codec.decode_task(codec.dumps(data["task"]), path.stem, self._node, 0),
                        codec.decode(TaskSpec, codec.dumps(spec)) if spec is not None else None,
                        codec.decode_status(codec.dumps(data["status"]), 0),
                    )
                )
            except (OSError, SpecError, KeyError, TypeError) as error:
                log.warning("%s is no record of a task: %s", path, error)
        return found
