# SPDX-License-Identifier: Apache-2.0
"""Run a test's coroutine with a client of real etcd members."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from etcd.client import Etcd
from lab.etcd_server import EtcdServer

STEP_TIMEOUT = 60.0  # seconds; a loaded machine


def run(story: Awaitable[None]) -> None:
    """Run it in an event loop of its own, with a deadline."""

    async def limited() -> None:
        async with asyncio.timeout(4 * STEP_TIMEOUT):
            await story

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def client(*servers: EtcdServer, **flags: Any) -> AsyncIterator[Etcd]:
    """A client of these members, closed at the end."""
    async with Etcd([server.client_url for server in servers], **flags) as etcd:
        yield etcd
