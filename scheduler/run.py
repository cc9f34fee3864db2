# SPDX-License-Identifier: Apache-2.0
"""The parts of one process: each runs until the stop is asked for.

A part is an async function of the settings and the connection to etcd. `PARTS` lists them; one
that fails ends the process, as what remains would look healthy without being so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from etcd.client import Etcd
from etcd.connect import connect
from scheduler.front.part import run_front
from scheduler.manager.part import run_manager
from scheduler.manager.role import run_by_role
from scheduler.manager.term import first_of
from scheduler.settings import Settings
from scheduler.worker.part import run_worker

Part = Callable[[Settings, Etcd], Awaitable[None]]


def parts(settings: Settings) -> dict[str, Part]:
    """What this process is to run, by name."""
    chosen: dict[str, Part] = {"manager": _manage_by_role}
    if settings.worker:
        chosen["worker"] = run_worker
    return chosen


async def run_parts(settings: Settings, stop: asyncio.Event) -> None:
    """Run them until `stop`; then end them all. Raises what a part raised."""
    async with connect(settings.etcd) as etcd:
        tasks = [
            asyncio.create_task(_run(part, settings, etcd), name=name)
            for name, part in parts(settings).items()
        ]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


async def _manage_by_role(settings: Settings, etcd: Etcd) -> None:
    await run_by_role(settings, etcd, _manage)


async def _manage(settings: Settings, etcd: Etcd) -> None:
    """A manager, and Docker's API: every manager serves it."""
    await first_of(run_manager(settings, etcd), run_front(settings, etcd))


async def _run(part: Part, settings: Settings, etcd: Etcd) -> None:
    await part(settings, etcd)
