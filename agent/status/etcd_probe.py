# SPDX-License-Identifier: Apache-2.0
"""Which of etcd's members answer this host now, each asked alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from urllib.parse import urlsplit

from agent.status.model import Endpoint
from base.errors import one_line
from etcd.client import EtcdError
from etcd.connect import EtcdSettings, connect


async def probe(settings: EtcdSettings, seconds: float) -> tuple[Endpoint, ...]:
    """Ask all members at once; takes so many seconds at most."""
    return tuple(await asyncio.gather(*(_one(settings, u, seconds) for u in settings.endpoints)))


async def _one(settings: EtcdSettings, url: str, seconds: float) -> Endpoint:
    # what a member says of its status needs no login
    alone = replace(settings, endpoints=(url,), username=None, password=None, passwordfile=None)
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await _reach(url)
            async with connect(alone) as client:
                status = await client.member_status()
    except TimeoutError:
        return Endpoint(url, problem=f"no answer within {seconds:g} s")
    except (EtcdError, OSError) as error:
        return Endpoint(url, problem=_reason(error))
    took = round((time.monotonic() - started) * 1000, 1)
    problem = "" if status.has_leader else "it has no leader: most of its members are away"
    return Endpoint(url, status.version, took, problem)


async def _reach(url: str) -> None:
    """Raise OSError with the plain reason where not even a connection can be had."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, EtcdError):
        reasons = {111: "connection refused", 113: "no route to the host"}
        return reasons.get(error.errno or 0, error.strerror)
    return one_line(error)
