# SPDX-License-Identifier: Apache-2.0
"""Drives one controller: waits until it is dirty, applies it in its worker thread, tries again.

A controller that fails or hangs reports itself here, and keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from agent.controller import Change, Controller, Dirty, Report
from agent.inputs import HostInputs, ReconcileInputs
from agent.metrics import Metrics
from agent.probe import Probe
from agent.problems import Problems
from agent.worker import Worker
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError

log = logging.getLogger("agent")
SETTLE_INTERVAL = 0.02
"""Seconds in which a burst of other programs' changes comes together before all is read."""
RETRY_INTERVALS = (2.0, 16.0)
"""Seconds until an apply that failed is tried again: at first, and at most after doubling."""
APPLY_TIMEOUT = 15.0
"""Seconds after which an apply that has not ended is reported. Every wait for another program
ends by itself before; what is left is reported as long as it lasts."""
CLOSE_TIMEOUT = 1.0
"""Seconds that the end of the daemon waits for a worker that is busy."""
ORDER_TIMEOUT = 0.25
"""Seconds that a controller waits while one that goes before it is applied again. One that fails
or hangs, but has been applied for the same `HostInputs` before, is then taken as it is."""


class Runner:
    """One controller, its worker, and what it still has to do. Used from the event loop."""

    def __init__(
        self,
        controller: Controller[Any],
        worker: Worker,
        metrics: Metrics,
        inputs: Callable[[], ReconcileInputs | None],
        notify: Callable[[Runner], None],
    ) -> None:
        """`inputs` returns what is known now; `notify` is called after each apply."""
        self.controller = controller
        self.worker = worker
        self.applied_for: HostInputs | None = None
        """What it was last applied for without a failure that stopped it."""
        self.applied_at: float | None = None
        """When that was, in seconds since 1970."""
        self.problems = Problems(logging.getLogger(f"agent.{controller.name.replace(' ', '_')}"))
        self.before: Sequence[Runner] = ()
        """The runners of the controllers it has to be applied after."""
        self.preferred_before: Sequence[Runner] = ()
        """The runners of those that it is applied after where they can be applied."""
        self._status = Probe(f"status of {controller.name}", controller.status)
        self._samples = Probe(f"samples of {controller.name}", controller.samples)
        self._metrics = metrics
        self._inputs = inputs
        self._notify = notify
        self._dirty = Dirty(whole=True, reasons=["start"])
        self._retry_interval = RETRY_INTERVALS[0]
        self._retry: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._marks = 0
        """How often it was marked dirty."""
        self._applied_marks = 0
        """As many of them as were taken in by an apply that has ended well."""
        self._ended = asyncio.Event()
        """Set when the apply that runs, or the next one, has ended; then replaced."""
        self._started: float | None = None
        """When the apply that runs now began, in monotonic seconds."""
        self._applying: Dirty | None = None
        """What it takes in."""

    # -- what others ask, from any thread but the event loop's -----------------------------

    @property
    def name(self) -> str:
        """The controller's."""
        return self.controller.name

    def status(self) -> str | None:
        """What is wrong with this part of the host, as one line. Takes `ANSWER_TIMEOUT` at most."""
        started = self._started
        if started is not None and (took := time.monotonic() - started) > APPLY_TIMEOUT:
            since = time.strftime("%H:%M:%S", time.gmtime(time.time() - took))
            last = self.problems.first(("apply", "kernel"))
            why = f"; before: {last}" if last else ""
            return f"{self.name}: not applied yet after {took:.0f} s, since {since} UTC{why}"
        return self.problems.first(("apply", "kernel")) or self.working()

    def working(self) -> str | None:
        """Why what was applied last does not work. Takes `ANSWER_TIMEOUT` at most."""
        try:
            return self._status.ask()
        except (FlatmeshError, OSError) as problem:
            return f"{self.name}: {problem}"

    def samples(self) -> Sequence[MetricSample]:
        """What the controller counts; nothing while it can't be asked."""
        try:
            return self._samples.ask()
        except (FlatmeshError, OSError) as problem:
            log.debug("%s: %s", self.name, problem)
            return []

    # -- what makes it dirty -------------------------------------------------------------

    def mark(
        self,
        change: Change,
        *,
        keys: Iterable[str] = (),
        reasons: Collection[str] = (),
    ) -> None:
        """Mark it dirty if it depends on the change."""
        if self.controller.depends_on & change:
            self._dirty.whole |= bool(self.controller.rereads_on & change)
            self._dirty.keys.update(keys)
            self._dirty.changes |= change & self.controller.depends_on
            self._dirty.because(reasons)
            self._marked()

    def mark_whole(self, *reasons: str) -> None:
        """Compare everything at the next apply."""
        self._dirty.whole = True
        self._dirty.because(reasons)
        self._marked()

    def _marked(self) -> None:
        self._marks += 1
        self._wake.set()

    def wake(self) -> None:
        """Check again whether it can be applied now."""
        if self._dirty:
            self._wake.set()

    # -- the work ------------------------------------------------------------------------

    async def run(self) -> None:
        """Apply it whenever it is dirty, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._dirty:
                continue
            if self._dirty.whole and self.applied_for is not None:
                await asyncio.sleep(SETTLE_INTERVAL)
            await self._wait_for_those_before()
            inputs = self._inputs()
            # where one before is not yet applied for these inputs, `notify` wakes us when it is
            if inputs is None or any(o.applied_for != inputs.host for o in self.before):
                continue
            await self._apply(inputs)
            self._notify(self)

    async def _wait_for_those_before(self) -> None:
        """Wait a moment while they are applied again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDER_TIMEOUT):
                for other in [*self.before, *self.preferred_before]:
                    await other.caught_up()

    async def caught_up(self) -> None:
        """Wait until all that was marked so far has been applied, or can't be.

        Waiting until nothing is marked was tried before: it never comes to that while leases
        change faster than they are applied.
        """
        marks = self._marks
        while self._applied_marks < marks and self.problems.text("apply") is None:
            await self._ended.wait()

    async def _apply(self, inputs: ReconcileInputs) -> None:
        """Apply the inputs as they are now: all changes marked so far are in them."""
        dirty, self._dirty = self._dirty, Dirty()
        marks = self._marks
        controller = self.controller

        def work() -> Report:
            return controller.apply(controller.desired(inputs, dirty))

        self._started = started = time.monotonic()
        self._applying = dirty
        try:
            report = await self.worker.submit(work)
        except (FlatmeshError, OSError) as problem:
            self._failed(dirty, str(problem))
        except Exception as fault:  # a fault of this part must not stop the others
            if self.problems.text("apply") != (text := f"{controller.name}: fault: {fault!r}"):
                log.exception("controller %s", controller.name)
            self._failed(dirty, text)
        else:
            self.problems.clear("apply")
            self.applied_for, self.applied_at = inputs.host, time.time()
            self._applied_marks = marks
            self._finish(report, dirty, time.monotonic() - started)
        finally:
            self._started = None
            for event in dirty.waiting:
                event.set()
            self._applying = None
        ended, self._ended = self._ended, asyncio.Event()
        ended.set()

    def _failed(self, dirty: Dirty, text: str) -> None:
        self.problems.report("apply", text)
        dirty.whole = True
        self._dirty.merge(dirty)
        self._wake.clear()
        self._try_again()

    def _try_again(self) -> None:
        """Mark it dirty after a while, which doubles from one failure to the next."""
        if self._retry is not None:
            self._retry.cancel()
        loop = asyncio.get_running_loop()
        self._retry = loop.call_later(self._retry_interval, self.mark_whole, "retry")
        self._retry_interval = min(self._retry_interval * 2, RETRY_INTERVALS[1])

    def _finish(self, report: Report, dirty: Dirty, took: float) -> None:
        kind = "whole" if dirty.whole else "delta"
        name = self.controller.name
        self._metrics.reconciles.labels(kind, name).observe(took)
        self._metrics.changes.inc(report.changes)
        self._metrics.errors.inc(len(report.failures))
        if report.changes:
            why = ", ".join(dirty.reasons) or "leases changed"
            log.info("%s: made %d changes in %.1f ms (%s)", name, report.changes, took * 1e3, why)
            for line in report.lines() if log.isEnabledFor(logging.DEBUG) else ():
                log.debug("%s", line)
        self.problems.replace("kernel ", {line: line for line in report.failures})
        if report.failures:
            self.problems.report("kernel", report.failures[0], logging.DEBUG)
            self._try_again()
        else:
            self.problems.clear("kernel")
            self._retry_interval = RETRY_INTERVALS[0]
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None
        if report.again:
            self.mark_whole(*report.again)

    def wait_for_next(self, done: threading.Event) -> None:
        """Set a `threading.Event` when the next apply has ended, well or not."""
        self._dirty.waiting.append(done)
        self._marked()

    def release_waiting(self) -> None:
        """Nobody waits for an apply any longer: the daemon stops."""
        for dirty in (self._applying, self._dirty):
            for event in dirty.waiting if dirty is not None else ():
                event.set()

    async def close(self) -> None:
        """Close the controller, if its worker is idle in time; what was applied stays."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.worker.submit(self.controller.close)
        except (TimeoutError, OSError) as problem:
            log.debug("controller %s: %s", self.controller.name, problem or "still busy at the end")
