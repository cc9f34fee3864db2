# SPDX-License-Identifier: Apache-2.0
"""A connection to etcd as settings describe it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from etcd.client import Etcd


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd, and where in it we are."""

    endpoints: tuple[str, ...]
    """`http(s)://HOST:PORT` each."""
    prefix: str
    """What all our keys begin with."""
    keyfile: str | None = None
    """Our private key (PEM), with `certfile`."""
    certfile: str | None = None
    cafile: str | None = None
    """The CA that signed etcd's certificate (PEM)."""
    username: str | None = None
    password: str | None = None
    passwordfile: str | None = None
    """Holds the password, where that is not given itself; read at each login."""


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
        password_file=_file(settings.passwordfile),
    )
    async with etcd:
        yield etcd


def _file(name: str | None) -> Path | None:
    return Path(name) if name else None
