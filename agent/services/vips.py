# SPDX-License-Identifier: Apache-2.0
"""The task that holds this host's floating addresses, on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from base.background_task import task_of
from etcd.connect import EtcdSettings, connect
from services.vip.holder import VipHolder

RETRY_INTERVAL = 2.0  # seconds until a fault of the program is tried again

log = logging.getLogger("agent.vips")


def start_holding(
    settings: EtcdSettings | None, holder: VipHolder, stack: contextlib.AsyncExitStack
) -> None:
    """Hold in a task, which `stack` ends. Without settings no address is ever held."""
    if settings is None:
        return

    async def run(etcd: EtcdSettings) -> None:
        while True:
            try:
                async with connect(etcd) as client:
                    await holder.run(client)
            except Exception:  # a fault of this part must not stop the daemon
                log.exception("floating addresses")
            await asyncio.sleep(RETRY_INTERVAL)

    task_of(stack, run(settings), "floating addresses")
