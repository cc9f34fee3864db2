# SPDX-License-Identifier: Apache-2.0
"""One task on this node, from its assignment to its end.

    PREPARING -> STARTING -> RUNNING -> COMPLETE | FAILED | SHUTDOWN,   or REJECTED

A task with a health check is STARTING until it is healthy; one that becomes unhealthy is ended
and FAILED. A task ends with the first of its containers. Its pod is removed then, its output is
kept until the task is forgotten. What is cancelled here (the worker's own end) leaves pods alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from scheduler.errors import SchedulerError
from scheduler.model.service import TaskSpec
from scheduler.model.task import Task, TaskState, TaskStatus
from scheduler.runtime.errors import PodNotFoundError, RuntimeCallError
from scheduler.runtime.protocol import ContainerState, ContainerStatus, PodStatus, Runtime
from scheduler.worker.health import HealthPlan, has_check, make_check, watch_health
from scheduler.worker.pod_config import MAIN, Surroundings, grace_period, pod_config

log = logging.getLogger("scheduler.worker")
STOP_MARGIN = 30.0  # seconds after the grace period until a pod is removed by force
LOST = "the pod was lost: the node was restarted, or its runtime forgot it"
Fetch = Callable[[Task], Awaitable[tuple[TaskSpec, Surroundings]]]
Report = Callable[[Task, TaskSpec | None, TaskStatus], None]


@dataclass(frozen=True, slots=True)
class Means:
    """What a runner works with."""

    runtime: Runtime
    fetch: Fetch
    """Reads a task's spec and what that refers to; waits while etcd is away."""
    report: Report
    starts: asyncio.Semaphore
    """How many pods are made at a time."""


class TaskRunner:
    """The task, as wanted and as observed."""

    def __init__(
        self, task: Task, means: Means, status: TaskStatus | None, spec: TaskSpec | None
    ) -> None:
        self.task, self.spec = task, spec
        self._means = means
        self.status = status or TaskStatus(TaskState.ASSIGNED)
        self._started_before = status is not None and status.state >= TaskState.PREPARING
        self._wanted = asyncio.Event()
        self._unhealthy = ""
        self._health_changed = asyncio.Event()

    def assign(self, task: Task) -> None:
        """Another version of the task arrived."""
        self.task = task
        if not self._runs_on:
            self._wanted.set()

    @property
    def _runs_on(self) -> bool:
        return self.task.desired <= TaskState.RUNNING

    # -- the story -------------------------------------------------------------------

    async def run(self) -> None:
        """Until the task has ended."""
        if self.status.state.ended:
            await self._means.runtime.remove(self.task.id, keep_logs=True)
            self._report(self.status.state)  # etcd may not have it
            return
        try:
            pod = await self._pod()
            if pod is None:
                if self._started_before:
                    self._report(TaskState.FAILED, err=LOST)
                    return
                if not self._runs_on or not await self._until_wanted_ends(self._start()):
                    await self._end(TaskState.SHUTDOWN)
                    return
            await self._supervise()
        except PodNotFoundError:
            self._report(TaskState.FAILED, err=LOST)
        except SchedulerError as error:
            state = TaskState.FAILED if self._ran else TaskState.REJECTED
            await self._end(state, err=str(error))

    @property
    def _ran(self) -> bool:
        return self.status.state >= TaskState.RUNNING

    async def forget(self) -> None:
        """Remove everything of it; its task is gone."""
        with contextlib.suppress(PodNotFoundError):
            if any(p.id == self.task.id and p.running for p in await self._means.runtime.list()):
                await self._stop()
        await self._means.runtime.remove(self.task.id)

    async def _pod(self) -> PodStatus | None:
        try:
            pod = await self._means.runtime.status(self.task.id)
        except PodNotFoundError:
            return None
        if not pod.containers:  # made, and the worker ended before its start
            await self._means.runtime.remove(self.task.id)
            self._started_before = False
            return None
        return pod

    async def _until_wanted_ends(self, work: Awaitable[None]) -> bool:
        """Do something unless the task is to stop first; whether it was done."""
        doing = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait((doing, stop), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            doing.result()
            return True
        finally:
            for one in (doing, stop):
                one.cancel()
            await asyncio.gather(doing, stop, return_exceptions=True)

    async def _start(self) -> None:
        self._report(TaskState.PREPARING)
        self.spec, around = await self._means.fetch(self.task)
        config = pod_config(self.task, self.spec, around)
        if (check := self.spec.container_spec.health_check) and has_check(check):
            make_check(check, self._means.runtime, self.task.id, MAIN, "")  # refused early
        async with self._means.starts:
            await self._means.runtime.create(config)
            self._report(TaskState.STARTING)
            await self._means.runtime.start(config)

    async def _supervise(self) -> None:
        pod = await self._means.runtime.status(self.task.id)
        checks = self._health_checks(pod)
        if checks is None and not _ended(pod):
            self._observe(pod, TaskState.RUNNING)
        try:
            while not _ended(pod):
                reason = await self._change(pod)
                if reason == "stop":
                    pod = await self._stop()
                    await self._end(TaskState.SHUTDOWN, pod.containers[0])
                    return
                if reason == "health" and self._unhealthy:
                    pod = await self._stop()
                    text = f"unhealthy container: {self._unhealthy}"
                    await self._end(TaskState.FAILED, pod.containers[0], err=text)
                    return
                pod = await self._means.runtime.status(self.task.id)
        finally:
            if checks is not None:
                checks.cancel()
                await asyncio.gather(checks, return_exceptions=True)
        await self._ended_by_itself(pod)

    async def _change(self, pod: PodStatus) -> str:
        """What happens first: `pod`, `stop` or `health`."""
        if not self._runs_on:
            return "stop"
        waits = {
            asyncio.ensure_future(self._means.runtime.wait(self.task.id, pod)): "pod",
            asyncio.ensure_future(self._wanted.wait()): "stop",
            asyncio.ensure_future(self._health_changed.wait()): "health",
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            self._health_changed.clear()
            return min((waits[one] for one in done), key=("pod", "stop", "health").index)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _health_checks(self, pod: PodStatus) -> asyncio.Task[None] | None:
        config = self.spec.container_spec.health_check if self.spec is not None else None
        if config is None or not has_check(config) or _ended(pod):
            return None
        address = pod.addresses[0].partition("/")[0] if pod.addresses else "127.0.0.1"
        check = make_check(config, self._means.runtime, self.task.id, MAIN, address)

        known = self.status.health if self._ran else "starting"  # it was healthy before a restart

        def changed(health: str, problem: str) -> None:
            if health == "unhealthy":
                self._unhealthy = problem
            self.status = replace(self.status, health=health)
            healthy = health == "healthy" or self._ran
            self._observe(pod, TaskState.RUNNING if healthy else self.status.state)
            self._health_changed.set()

        return asyncio.create_task(watch_health(check, HealthPlan.of(config), known, changed))

    # -- its end ---------------------------------------------------------------------

    async def _stop(self) -> PodStatus:
        """Stop the containers; the pod as it is then."""
        runtime = self._means.runtime
        grace = grace_period(self.spec) if self.spec is not None else 10.0
        await runtime.stop(self.task.id, grace)
        pod = await runtime.status(self.task.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + STOP_MARGIN):
                while pod.running:
                    pod = await runtime.wait(self.task.id, pod)
        return pod

    async def _ended_by_itself(self, pod: PodStatus) -> None:
        exited = [c for c in pod.containers if c.state is ContainerState.EXITED]
        first = next((c for c in exited if c.exit_code), exited[0])
        if pod.running:  # other containers of the pod
            await self._stop()
        if not self._runs_on:
            await self._end(TaskState.SHUTDOWN, first)
        elif first.exit_code:
            await self._end(TaskState.FAILED, first, err=failure(first))
        else:
            await self._end(TaskState.COMPLETE, first)

    async def _end(
        self, state: TaskState, container: ContainerStatus | None = None, err: str = ""
    ) -> None:
        code = container.exit_code if container is not None else None
        self.status = replace(self.status, exit_code=code, pid=0)
        self._report(state, err=err)
        try:
            await self._means.runtime.remove(self.task.id, keep_logs=True)
        except RuntimeCallError as error:
            log.warning("task %s: %s; it is tried again", self.task.id, error)

    # -- what is told ----------------------------------------------------------------

    def _observe(self, pod: PodStatus, state: TaskState) -> None:
        self.status = replace(
            self.status,
            pid=pod.containers[0].pid,
            container=self.task.id,
            addresses=tuple(address.partition("/")[0] for address in pod.addresses),
            ports=self.task.host_ports,
        )
        self._report(state)

    def _report(self, state: TaskState, *, err: str = "") -> None:
        message = {TaskState.RUNNING: "started", TaskState.COMPLETE: "finished"}
        self.status = replace(
            self.status,
            state=state,
            timestamp=time.time() if state is not self.status.state else self.status.timestamp,
            message=message.get(state, state.docker),
            err=err or self.status.err,
        )
        self._means.report(self.task, self.spec, self.status)


def _ended(pod: PodStatus) -> bool:
    return any(c.state is ContainerState.EXITED for c in pod.containers)


def failure(container: ContainerStatus) -> str:
    """Why a container's end is a failure, as Docker says it."""
    where = "" if container.name == MAIN else f" of container {container.name}"
    if container.error:
        return f"task: {container.error}"
    if container.oom_killed:
        return f"task: non-zero exit ({container.exit_code}){where}: out of memory"
    return f"task: non-zero exit ({container.exit_code}){where}"
