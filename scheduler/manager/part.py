# SPDX-License-Identifier: Apache-2.0
"""The manager of a process: it registers, and leads when it is its turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging

from etcd.client import Etcd, EtcdError
from etcd.retry_pause import RetryPause
from scheduler.identity import node_id
from scheduler.manager.election import campaign
from scheduler.manager.term import Leadership
from scheduler.settings import Settings
from scheduler.store.keys import Keys

TTL = 10  # seconds

log = logging.getLogger("scheduler.manager")


async def run_manager(settings: Settings, etcd: Etcd) -> None:
    """Be a manager until cancelled."""
    # what is kept for 100,000 tasks is no garbage: looking for some in it stops everything
    gc.set_threshold(50_000, 20, 100)
    keys, node = Keys(settings.etcd.prefix), node_id(settings)
    leadership = Leadership(etcd, keys, settings.network_prefix, settings.rebalance)
    registered = asyncio.create_task(_register(etcd, keys, node, api_address(settings)))
    try:
        await campaign(etcd, keys, node, leadership.lead)
    finally:
        registered.cancel()
        await asyncio.gather(registered, return_exceptions=True)


def api_address(settings: Settings) -> str:
    """Where other managers and clients reach this one's API."""
    return settings.listen or f"unix://{settings.socket}"


async def _register(etcd: Etcd, keys: Keys, node: str, address: str) -> None:
    """Keep managers/<node> with an etcd lease, which ends with this process."""
    pause, lease = RetryPause(), 0
    try:
        while True:
            try:
                if not lease or not await etcd.keep_alive(lease):
                    lease = await etcd.grant(TTL)
                    await etcd.put(keys.manager(node), address.encode(), lease=lease)
                pause.reset()
                await asyncio.sleep(TTL / 3)
            except EtcdError as error:
                log.debug("%s", error)
                await pause.wait()
    finally:
        if lease:
            with contextlib.suppress(EtcdError, TimeoutError):
                async with asyncio.timeout(1):
                    await etcd.revoke(lease)
