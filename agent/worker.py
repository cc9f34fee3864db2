# SPDX-License-Identifier: Apache-2.0
"""Threads in which controllers are applied, so that nothing else waits for them.

An apply talks to other programs, and any of these can be stopped or slow. The thread is a daemon
thread, which the interpreter doesn't wait for at its end: concurrent.futures joins its threads,
and so kept a daemon with a stuck apply from ending at SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """One thread that does one job after the other. Used from one event loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()

    def submit(self, job: Callable[[], Result]) -> asyncio.Future[Result]:
        """Queue a job; the future has its result or what it raised.

        Cancelling the future leaves the job running, as a thread can't be stopped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def succeed(result: Result) -> None:
            if not future.done():
                future.set_result(result)

        def fail(problem: BaseException) -> None:
            if not future.done():
                future.set_exception(problem)

        def work() -> None:
            try:
                result = job()
            except BaseException as problem:  # noqa: BLE001 - it belongs to whoever awaits it
                _tell(loop, fail, problem)
            else:
                _tell(loop, succeed, result)

        self._jobs.put(work)
        return future

    def stop(self) -> None:
        """End the thread when it has done what is queued; doesn't wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


Told = TypeVar("Told")


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[Told], None], value: Told) -> None:
    """Call back in the loop, unless that has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, value)
