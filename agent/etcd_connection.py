"""Etcd as the flags describe it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from agent.settings import EtcdSettings
from etcd.client import Etcd


@contextlib.asynccontextmanager
async def connect(settings: EtcdSettings) -> AsyncIterator[Etcd]:
    """Open the connection inside the block; it connects, and reconnects, by itself.

    Raises EtcdError for certificate files that can't be used.
    """
    etcd = Etcd(
        settings.endpoints,
        ca=_file(settings.cafile),
        cert=_file(settings.certfile),
        key=_file(settings.keyfile),
        username=settings.username,
        password=settings.password,
    )
    async with etcd:
        yield etcd


def _file(name: str | None) -> Path | None:
    return Path(name) if name else None
