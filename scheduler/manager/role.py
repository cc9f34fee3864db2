# SPDX-License-Identifier: Apache-2.0
"""`docker node promote` and `demote`: a process becomes a manager, or stops being one, as it runs.

`--manager` decides at the start; after that each change of the node's role does. A node that was a
manager by its role when it stopped is one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from etcd.client import Etcd
from scheduler.errors import SpecError
from scheduler.identity import node_id
from scheduler.manager.part import run_manager
from scheduler.model.node import NodeRecord
from scheduler.settings import Settings
from scheduler.store import codec
from scheduler.store.follow import follow
from scheduler.store.keys import Keys

Manager = Callable[[Settings, Etcd], Awaitable[None]]

log = logging.getLogger("scheduler.manager")


async def run_by_role(settings: Settings, etcd: Etcd, manager: Manager = run_manager) -> None:
    """Run `manager` while this node is one, until cancelled. Raises what it raises."""
    is_manager, before = settings.manager, ""
    running: asyncio.Task[None] | None = None
    roles = _roles(settings, etcd)
    following = asyncio.ensure_future(anext(roles))
    try:
        while True:
            if is_manager and running is None:
                running = asyncio.create_task(_run(manager, settings, etcd), name="manager")
            elif not is_manager and running is not None:
                await _end(running)
                running = None
            waited = [following, running] if running is not None else [following]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if running is not None and running.done():
                running.result()
                return
            if following.done():
                role = following.result()
                if role == "manager" or (before == "manager" and role):
                    is_manager = role == "manager"
                if role != before:
                    log.info("this node's role is %s", role or "unknown")
                before = role or before
                following = asyncio.ensure_future(anext(roles))
    finally:
        await _end(following)
        await roles.aclose()
        if running is not None:
            await _end(running)


async def _run(manager: Manager, settings: Settings, etcd: Etcd) -> None:
    await manager(settings, etcd)


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
        await task


async def _roles(settings: Settings, etcd: Etcd) -> AsyncGenerator[str]:
    """This node's role, and each change; empty: it has no record."""
    key = Keys(settings.etcd.prefix).node(node_id(settings))
    async for batch in follow(etcd, key):
        found = [kv for name, kv in batch.events if name == key]
        if not found:
            continue
        try:
            record = codec.decode(NodeRecord, found[-1].value) if found[-1] is not None else None
        except SpecError as error:
            log.warning("%s: %s", key, error)
            continue
        yield record.spec.role if record is not None else ""
