# SPDX-License-Identifier: Apache-2.0
"""All tasks of this node: a runner each, made and ended as etcd's watch says.

The first look at etcd decides what of the node's past is still wanted: pods of tasks that are
gone are ended, and so is what others run now because this node was silent. Until then, and while
etcd is away, everything that runs goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from etcd.client import Etcd, EtcdError
from etcd.retry_pause import RetryPause
from scheduler.errors import SchedulerError, SpecError
from scheduler.model.service import TaskSpec
from scheduler.model.task import Task, TaskStatus
from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import Runtime
from scheduler.store import codec
from scheduler.store.follow import Batch, follow, list_all
from scheduler.store.keys import Keys
from scheduler.worker.pod_config import Surroundings
from scheduler.worker.records import Record, Records
from scheduler.worker.runner import Means, TaskRunner
from scheduler.worker.specs import Specs
from scheduler.worker.status_writer import StatusWriter

log = logging.getLogger("scheduler.worker")
PARALLEL_STARTS = 8
GARBAGE_INTERVAL = 600.0  # seconds


class Assignments:
    """The runners."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        around: Surroundings,
        runtime: Runtime,
        records: Records,
    ) -> None:
        self._etcd, self._keys = etcd, keys
        self.runtime, self._records = runtime, records
        self._node = around.node_id
        self._specs = Specs(etcd, keys, around)
        self.writer = StatusWriter(etcd, keys, self._node)
        self._means = Means(
            runtime, self._specs.fetch, self._report, asyncio.Semaphore(PARALLEL_STARTS)
        )
        self.runners: dict[str, TaskRunner] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow etcd until cancelled; pods stay as they are then."""
        for record in self._records.list():
            self._begin(record.task, record.status, record.spec)
        jobs = [
            asyncio.create_task(self.writer.run()),
            asyncio.create_task(self._collect_garbage()),
            asyncio.create_task(self._follow()),
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs:
                if job.done():
                    job.result()
        finally:
            everything = [*jobs, *self._running.values(), *self._leaving]
            for job in everything:
                job.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _follow(self) -> None:
        async with contextlib.aclosing(follow(self._etcd, self._keys.tasks_of(self._node))) as all_:
            async for batch in all_:
                await self._take(batch)

    async def _take(self, batch: Batch) -> None:
        known: dict[str, TaskStatus] = {}
        if batch.complete:
            known = await self._known_statuses()
            there = {self._keys.parts(key)[-1] for key, _ in batch.events}
            for task_id in set(self.runners) - there:
                self._forget(task_id)
            pods = {pod.id for pod in await self.runtime.list()}
            for pod_id in pods - there - set(self.runners):
                log.info("pod %s belongs to no task: removed", pod_id)
                self._aside(self._remove(pod_id))
        for key, kv in batch.events:
            task_id = self._keys.parts(key)[-1]
            if kv is None:
                self._forget(task_id)
                continue
            try:
                task = codec.decode_task(kv.value, task_id, self._node, kv.mod_revision)
            except SpecError as error:
                log.warning("skipping %s: %s", key, error)
                continue
            if (runner := self.runners.get(task_id)) is not None:
                runner.assign(task)
                if runner.spec is not None or runner.status.state.ended:
                    self._records.write(Record(task, runner.spec, runner.status))
                if batch.complete and known.get(task_id) != runner.status:
                    self.writer.put(task_id, runner.status)  # etcd missed it, or was restored
            else:
                self._begin(task, known.get(task_id), None)

    async def _known_statuses(self) -> dict[str, TaskStatus]:
        """What etcd has of our tasks; it answers, as the list before has just come."""
        pause = RetryPause()
        while True:
            try:
                found, _ = await list_all(self._etcd, self._keys.statuses_of(self._node))
                break
            except EtcdError as error:
                log.warning("states of tasks can't be read: %s", error)
                await pause.wait()
        known = {}
        for kv in found:
            with contextlib.suppress(SpecError):
                status = codec.decode_status(kv.value, kv.mod_revision)
                known[self._keys.parts(kv.key)[-1]] = replace(status, version=0)
        return known

    # -- runners -----------------------------------------------------------------------

    def _begin(self, task: Task, status: TaskStatus | None, spec: TaskSpec | None) -> None:
        runner = TaskRunner(task, self._means, status, spec)
        self.runners[task.id] = runner
        self._running[task.id] = asyncio.create_task(self._guarded(runner), name=task.id)

    async def _guarded(self, runner: TaskRunner) -> None:
        try:
            await runner.run()
        except SchedulerError as error:
            log.warning("task %s: %s", runner.task.id, error)
        except Exception:
            log.exception("task %s", runner.task.id)

    def _forget(self, task_id: str) -> None:
        runner = self.runners.pop(task_id, None)
        if runner is None:
            return
        self.writer.forget(task_id)
        self._records.remove(task_id)
        self._aside(self._end(runner, self._running.pop(task_id)))

    async def _end(self, runner: TaskRunner, running: asyncio.Task[None]) -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.writer.forget(runner.task.id)
        self._records.remove(runner.task.id)
        try:
            await runner.forget()
        except RuntimeCallError as error:
            log.warning("task %s: %s", runner.task.id, error)

    async def _remove(self, pod_id: str) -> None:
        with contextlib.suppress(RuntimeCallError):
            await self.runtime.remove(pod_id)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(work)
        self._leaving.add(job)
        job.add_done_callback(self._leaving.discard)

    def _report(self, task: Task, spec: TaskSpec | None, status: TaskStatus) -> None:
        self._records.write(Record(task, spec, status))
        self.writer.put(task.id, status)

    async def _collect_garbage(self) -> None:
        while True:
            await asyncio.sleep(GARBAGE_INTERVAL)
            try:
                await self.runtime.collect_garbage(set(self.runners))
            except RuntimeCallError as error:
                log.warning("garbage: %s", error)
