# SPDX-License-Identifier: Apache-2.0
"""Writes what was observed to etcd; what can't be written yet waits, only its last state.

States before `running` wait a moment, as most tasks run soon: a task then costs one write instead
of three.

A status is written only while its task is there: the leader forgets a task and its status in one
step, and a late status would stay for ever.
"""

from __future__ import annotations

import asyncio
import logging

from etcd.client import Etcd, EtcdError, Transaction
from etcd.retry_pause import RetryPause
from scheduler.model.task import TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.keys import Keys

log = logging.getLogger("scheduler.worker")
PARALLEL = 16  # writes at a time
EARLY_DELAY = 0.5  # seconds


class StatusWriter:
    """The newest status of each task that etcd does not have yet."""

    def __init__(self, etcd: Etcd, keys: Keys, node: str) -> None:
        self._etcd, self._keys, self._node = etcd, keys, node
        self._waiting: dict[str, TaskStatus] = {}
        self._early: dict[str, TaskStatus] = {}
        self._work = asyncio.Event()

    def put(self, task: str, status: TaskStatus) -> None:
        """Write it soon."""
        if status.state < TaskState.RUNNING and task not in self._waiting:
            self._early[task] = status
            asyncio.get_running_loop().call_later(EARLY_DELAY, self._ripen, task, status)
            return
        self._early.pop(task, None)
        self._waiting[task] = status
        self._work.set()

    def _ripen(self, task: str, status: TaskStatus) -> None:
        if self._early.get(task) is status:
            del self._early[task]
            self._waiting[task] = status
            self._work.set()

    def forget(self, task: str) -> None:
        """Its task is gone."""
        self._early.pop(task, None)
        self._waiting.pop(task, None)

    async def run(self) -> None:
        """Write until cancelled."""
        pause, said = RetryPause(), ""
        while True:
            await self._work.wait()
            self._work.clear()
            batch = list(self._waiting.items())[:PARALLEL]
            done = await asyncio.gather(
                *(self._write(task, status) for task, status in batch), return_exceptions=True
            )
            problem = next((r for r in done if isinstance(r, BaseException)), None)
            if problem is not None and not isinstance(problem, EtcdError):
                raise problem
            if problem is not None and str(problem) != said:
                log.warning("states of tasks wait for etcd: %s", problem)
            said = str(problem) if problem is not None else ""
            if self._waiting:
                self._work.set()
            if problem is not None:
                await pause.wait()
            else:
                pause.reset()

    async def _write(self, task: str, status: TaskStatus) -> None:
        key = self._keys.status(self._node, task)
        present = [self._keys.task(self._node, task)]
        await self._etcd.commit(
            Transaction(present=present, put={key: codec.encode_status(status)})
        )
        if self._waiting.get(task) is status:
            del self._waiting[task]
