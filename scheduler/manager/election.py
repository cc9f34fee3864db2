# SPDX-License-Identifier: Apache-2.0
"""Who leads: the manager whose etcd lease holds the leader key.

A leader that can't renew its lease stops before the lease has ended, by its monotonic clock. Should
it not know (its process was frozen), nothing happens either: each of its writes compares the leader
key, and is refused (`manager.writer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from etcd.client import Etcd, EtcdError, Transaction
from etcd.retry_pause import RetryPause
from scheduler.store.keys import Keys

TTL = 3  # seconds; etcd's shortest lease is 2
RENEW = 0.7  # seconds
LOOK_INTERVAL = 2.0  # seconds; the leader key is looked at so often even if no watch tells

Lead = Callable[[int], Awaitable[None]]

log = logging.getLogger("scheduler.election")


class NotLeadingError(Exception):
    """Another manager leads, or may."""


async def campaign(etcd: Etcd, keys: Keys, node: str, lead: Lead) -> None:
    """Try to lead, for ever; while this manager does, `lead(revision of the leader key)` runs."""
    pause = RetryPause()
    while True:
        try:
            found, revision = await etcd.get(keys.leader)
            if found is not None and found.value != node.encode():
                await _until_changed(etcd, keys, revision + 1)
                continue
            if found is not None:  # of our last run: its lease may last a while yet
                await _until_changed(etcd, keys, revision + 1)
                continue
            lease = await etcd.grant(TTL)
            granted = time.monotonic()
            try:
                transaction = Transaction(
                    unchanged={keys.leader: 0}, put={keys.leader: node.encode()}, lease=lease
                )
                done = await etcd.commit(transaction)
                if done is None:
                    found, _ = await etcd.get(keys.leader)
                    done = found.mod_revision if found and found.lease == lease else None
                if done is not None:
                    pause.reset()
                    await _lead(etcd, lease, granted, lead, done, node)
            finally:
                with contextlib.suppress(EtcdError, TimeoutError):
                    async with asyncio.timeout(1):
                        await etcd.revoke(lease)
        except EtcdError as error:
            log.warning("%s (trying again)", error)
            await pause.wait()


async def _until_changed(etcd: Etcd, keys: Keys, revision: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(LOOK_INTERVAL),
            contextlib.aclosing(etcd.watch(keys.leader, revision)) as watch,
        ):
            async for batch in watch:
                if batch.events:
                    return


async def _lead(etcd: Etcd, lease: int, granted: float, lead: Lead, at: int, node: str) -> None:
    log.info("%s leads from revision %d on", node, at)
    leading = asyncio.ensure_future(lead(at))
    renewing = asyncio.ensure_future(_renew(etcd, lease, granted))
    try:
        await asyncio.wait([leading, renewing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (leading, renewing):
            task.cancel()
        results = await asyncio.gather(leading, renewing, return_exceptions=True)
    log.info("%s does not lead any more", node)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, (NotLeadingError, EtcdError)):
            raise result


async def _renew(etcd: Etcd, lease: int, renewed: float) -> None:
    """Renew the lease until that fails for as long as it lasts."""
    while True:
        await asyncio.sleep(RENEW)
        started = time.monotonic()
        left = renewed + TTL - started
        if left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                if not await etcd.keep_alive(lease):
                    return
            renewed = started
        except TimeoutError:
            return
        except EtcdError as error:
            log.warning("the leader's lease could not be renewed: %s", error)
