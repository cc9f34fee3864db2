# SPDX-License-Identifier: Apache-2.0
"""The lease sources there are, by name: a source is one factory and one line here.

A factory imports its source when it is called, and returns a `LeaseSource`, so that mypy compares
the class with the protocol here.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agent.settings import Settings
from base import paths
from flannel.wireguard.key import KeyFile
from ipam.lease_source import LeaseSource
from ipam.network import ConfigError

log = logging.getLogger("agent")
Factory = Callable[[Settings], AbstractAsyncContextManager[LeaseSource]]
"""Called with the daemon's settings; the source works inside the block.

Raises FlatmeshError for settings that can't be used."""


@contextlib.asynccontextmanager
async def _etcd(settings: Settings) -> AsyncIterator[LeaseSource]:
    from etcd.connect import connect  # noqa: PLC0415
    from ipam.etcd_source import EtcdLeaseSource  # noqa: PLC0415

    etcd = settings.etcd
    if etcd is None:
        raise ConfigError("lease source etcd: no endpoints given, use --etcd-endpoints")
    async with connect(etcd) as client:
        log.info("etcd at %s", ",".join(etcd.endpoints))
        memory = settings.state_dir / paths.LEASE_FILE
        yield EtcdLeaseSource(
            client,
            etcd.prefix,
            memory,
            ttl=settings.lease_ttl,
            on_copied=lambda: ask_for_new_key(settings.state_dir),
        )


def ask_for_new_key(state_dir: Path) -> None:
    """Another host has our WireGuard key, if we have one. Raises WireguardKeyError."""
    file = KeyFile(state_dir)
    if file.path.exists():
        file.ask_rotation()


@contextlib.asynccontextmanager
async def _kubernetes(settings: Settings) -> AsyncIterator[LeaseSource]:
    from kube.open_source import node_source  # noqa: PLC0415

    if settings.kube is None:
        raise ConfigError("lease source kubernetes: use --kube-subnet-mgr")
    async with node_source(settings.kube, os.environ) as source:
        log.info("node %s of %s", source.node_name, source.client.access.url)
        yield source


SOURCES: dict[str, Factory] = {
    "etcd": _etcd,
    "kubernetes": _kubernetes,
}
