# SPDX-License-Identifier: Apache-2.0
"""How controllers are driven: dirty flags, order, deadlines, failures. Real threads and loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from agent import runner as runner_module
from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from agent.metrics import Metrics
from agent.runner import Runner
from agent.worker import Worker
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError
from tests.unit.agent.agent_inputs import inputs, lease


class BrokenError(FlatmeshError):
    """The toy is broken."""


@dataclass(slots=True)
class Toy:
    """A controller that keeps a record of its applies, and hangs or fails when told to."""

    name: str
    record: list[str]
    depends_on: Change = Change.LEASES
    rereads_on: Change = Change.KERNEL
    after: tuple[str, ...] = ()
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = False
    worker: str = ""
    may_run: threading.Event = field(default_factory=threading.Event)
    """While it is not set, an apply hangs."""
    broken: bool = False
    dirty: list[Dirty] = field(default_factory=list)
    problem: Callable[[], str | None] = lambda: None

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> int:
        self.dirty.append(dirty)
        return len(inputs.leases)

    def apply(self, desired: int) -> Report:
        self.record.append(f"{self.name} starts")
        self.may_run.wait(10.0)
        if self.broken:
            raise BrokenError(f"{self.name} is broken")
        self.record.append(f"{self.name} ends")
        return Report(desired)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        raise NotImplementedError

    def status(self) -> str | None:
        return self.problem()

    def samples(self) -> list[MetricSample]:
        return []

    def close(self) -> None:
        self.record.append(f"{self.name} closed")

    def cleanup(self) -> list[str]:
        raise NotImplementedError


def toy(name: str, record: list[str], *, after: tuple[str, ...] = (), hangs: bool = False) -> Toy:
    made = Toy(name, record, after=after)
    if not hangs:
        made.may_run.set()
    return made


@contextlib.asynccontextmanager
async def running(*toys: Toy) -> AsyncIterator[list[Runner]]:
    there = inputs(lease(2))

    def notify(done: Runner) -> None:
        for runner in runners:
            if done in runner.before:
                runner.wake()

    runners = [Runner(t, Worker(t.name), Metrics(), lambda: there, notify) for t in toys]
    for runner in runners:
        runner.before = [r for r in runners if r.name in runner.controller.after]
        runner.mark_whole()
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield runners
    finally:
        for t in toys:
            t.may_run.set()
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110 - the condition is set in another thread
            await asyncio.sleep(0.005)
    assert condition(), what


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "RETRY_INTERVALS", (0.05, 0.05))
    monkeypatch.setattr(runner_module, "APPLY_TIMEOUT", 0.2)
    monkeypatch.setattr(runner_module, "ORDER_TIMEOUT", 0.1)


def test_a_controller_is_applied_after_those_it_needs() -> None:
    async def story() -> None:
        record: list[str] = []
        async with running(toy("routes", record, after=("devices",)), toy("devices", record)):
            await until(lambda: len(record) == 4, "both are applied")
        assert record[:4] == ["devices starts", "devices ends", "routes starts", "routes ends"]

    run(story)


def test_only_what_depends_on_a_change_is_applied_again() -> None:
    async def story() -> None:
        record: list[str] = []
        pods, routes = toy("pods", record), toy("routes", record)
        pods.depends_on = Change.PODS
        async with running(pods, routes) as runners:
            await until(lambda: len(record) == 4, "both are applied")
            record.clear()
            for runner in runners:
                runner.mark(Change.LEASES, keys=["10.5.2.0-24"])
            await until(lambda: len(record) == 2, "one is applied again")
            await asyncio.sleep(0.05)
        assert record[:2] == ["routes starts", "routes ends"]
        assert len(record) == 2
        assert not routes.dirty[-1].whole
        assert routes.dirty[-1].keys == {"10.5.2.0-24"}

    run(story)


def test_a_change_that_may_have_taken_something_away_means_reading_all() -> None:
    async def story() -> None:
        watcher = toy("watcher", [])
        watcher.depends_on = Change.LEASES | Change.KERNEL
        async with running(watcher) as (runner,):
            await until(lambda: len(watcher.dirty) == 1, "it is applied")
            runner.mark(Change.KERNEL, reasons=["route 10.5.2.0/24 was deleted"])
            await until(lambda: len(watcher.dirty) == 2, "it is applied again")
        assert watcher.dirty[-1].whole
        assert watcher.dirty[-1].reasons == ["route 10.5.2.0/24 was deleted"]

    run(story)


def test_an_apply_that_hangs_is_reported_and_started_only_once() -> None:
    async def story() -> None:
        record: list[str] = []
        stuck, other = toy("stuck", record, hangs=True), toy("other", record)
        async with running(stuck, other) as (runner, _):
            await until(lambda: "other ends" in record, "the other one is applied")
            for _ in range(3):
                runner.mark(Change.LEASES, keys=["10.5.2.0-24"])
                await asyncio.sleep(0.1)
            assert record.count("stuck starts") == 1
            status = await asyncio.to_thread(runner.status)
            assert status is not None
            assert re.match(r"stuck: not applied yet after \d+ s, since ", status)
            stuck.may_run.set()
            await until(lambda: record.count("stuck ends") == 2, "what came meanwhile is applied")
            assert await asyncio.to_thread(runner.status) is None

    run(story)


def test_one_that_fails_says_why_is_tried_again_and_stops_no_other() -> None:
    async def story() -> None:
        record: list[str] = []
        broken, other = toy("broken", record), toy("other", record)
        broken.broken = True
        async with running(broken, other) as (runner, _):
            await until(lambda: record.count("broken starts") >= 2, "it is tried again")
            await until(lambda: "other ends" in record, "the other one is applied")
            async with asyncio.timeout(30.0):
                while await asyncio.to_thread(runner.status) != "broken is broken":  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert broken.dirty[-1].whole
            broken.broken = False
            await until(lambda: "broken ends" in record, "it is applied")
            assert await asyncio.to_thread(runner.status) is None

    run(story)


def test_one_that_fails_again_keeps_those_behind_it_waiting_for_a_moment_only() -> None:
    async def story() -> None:
        record: list[str] = []
        devices = toy("devices", record)
        async with running(devices, toy("routes", record, after=("devices",))) as runners:
            await until(lambda: "routes ends" in record, "both are applied")
            devices.may_run.clear()
            record.clear()
            for runner in runners:
                runner.mark(Change.LEASES, keys=["10.5.2.0-24"])
            await until(lambda: "routes ends" in record, "the routes are applied")
            assert "devices ends" not in record

    run(story)


def test_a_fault_of_one_controller_is_reported_like_a_failure() -> None:
    async def story() -> None:
        record: list[str] = []
        faulty, other = toy("faulty", []), toy("other", record)
        faulty.problem = lambda: None

        def desired(inputs: ReconcileInputs, dirty: Dirty) -> int:
            raise ZeroDivisionError(f"{len(inputs.leases)} {dirty.whole}")

        faulty_runner = Faulty(faulty, desired)
        async with running(other):
            worker = Worker("faulty")
            there = inputs()
            runner = Runner(faulty_runner, worker, Metrics(), lambda: there, lambda _: None)
            runner.mark_whole()
            task = asyncio.create_task(runner.run())
            await until(lambda: runner.problems.text("apply") is not None, "it is reported")
            assert "ZeroDivisionError" in str(await asyncio.to_thread(runner.status))
            task.cancel()
            await until(lambda: "other ends" in record, "the other one is applied")

    run(story)


class Faulty(Toy):
    """A toy whose `desired` is another function."""

    def __init__(self, like: Toy, desired: Callable[[ReconcileInputs, Dirty], int]) -> None:
        super().__init__(like.name, like.record, may_run=like.may_run)
        self._desired = desired

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> int:
        return self._desired(inputs, dirty)


def test_status_of_a_part_that_does_not_answer_comes_at_once() -> None:
    async def story() -> None:
        answers = threading.Event()
        silent = toy("silent", [])

        def problem() -> str | None:
            answers.wait(10.0)
            return "now it tells"

        silent.problem = problem
        async with running(silent) as (runner,):
            started = asyncio.get_running_loop().time()
            status = await asyncio.to_thread(runner.status)
            assert asyncio.get_running_loop().time() - started < 2.0
            assert status is not None
            assert status.startswith("silent: no answer for 0.")
            answers.set()
            await until(lambda: runner.working() == "now it tells", "it answers")

    run(story)


def test_who_waits_for_an_apply_is_released_when_it_has_ended_or_the_daemon_stops() -> None:
    async def story() -> None:
        record: list[str] = []
        stuck = toy("stuck", record, hangs=True)
        async with running(stuck) as (runner,):
            first, second = threading.Event(), threading.Event()
            runner.wait_for_next(first)
            await until(lambda: "stuck starts" in record, "it hangs")
            runner.wait_for_next(second)
            assert not first.is_set()
            runner.release_waiting()
            assert first.is_set()
            assert second.is_set()

    run(story)
