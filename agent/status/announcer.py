# SPDX-License-Identifier: Apache-2.0
"""Tells the other hosts this one's name, version and whether it is ready (`ipam.host_records`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

from agent.loop import HostController
from agent.problems import Problems
from agent.settings import Settings
from agent.worker import Worker
from base.errors import FlatmeshError
from base.version import commit
from ipam.host_records import MAX_NAME, MAX_PROBLEM, HostRecord

INTERVALS = (1.0, 5.0)
"""Seconds between two looks whether what is told has changed: until it is told, and then."""
PATIENCE_AT_START = 10.0
"""Seconds for a host to become ready, before it tells that it is not."""

log = logging.getLogger("agent.status")


def record_maker(
    settings: Settings, readiness: Callable[[], str | None]
) -> Callable[[], HostRecord | None]:
    """A function that returns the record as it is now; None: too early to tell."""
    name = (settings.host_name or socket.gethostname())[:MAX_NAME]
    started, begun = int(time.time()), time.monotonic()
    words: tuple[str, str, str, int] | None = None
    last: HostRecord | None = None

    def make() -> HostRecord | None:
        nonlocal last, words
        if words is None:  # here, in a thread: a checkout asks git for the commit
            words = (name, version("flatmesh")[:MAX_NAME], commit()[:MAX_NAME], started)
        problem = (readiness() or "")[:MAX_PROBLEM]
        if last is None and problem and time.monotonic() - begun < PATIENCE_AT_START:
            return None
        if last is None or _gist(problem) != _gist(last.problem):
            last = HostRecord(*words, ready=not problem, problem=problem)
        return last

    return make


def _gist(problem: str) -> str:
    """A problem without its numbers: seconds that grow make no new one."""
    return re.sub(r"\d+", "#", problem)


@contextlib.contextmanager
def announcing(settings: Settings, host: HostController) -> Iterator[None]:
    """Tell inside the block, as a task of the event loop."""
    worker = Worker("host record")
    task = asyncio.create_task(_announce(settings, host, worker), name="host record")
    try:
        yield
    finally:
        task.cancel()
        worker.stop()


async def _announce(settings: Settings, host: HostController, worker: Worker) -> None:
    make, problems = record_maker(settings, host.readiness), Problems(log)
    interval, later = INTERVALS
    while True:
        try:
            record = await worker.submit(make)
            if record is not None:
                await host.source.announce(record)
                interval = later
            problems.clear("record")
        except (FlatmeshError, OSError) as error:
            problems.report("record", f"this host's record is not told: {error}", logging.DEBUG)
        await asyncio.sleep(interval)
