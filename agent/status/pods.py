# SPDX-License-Identifier: Apache-2.0
"""The pods of this host, as its address store has them; the daemon need not run."""

from __future__ import annotations

import socket
from pathlib import Path

from agent.status.model import Pod
from base import paths
from docker_plugin.records import is_address
from ipam.address_store import AddressStore, StoredAttachment

LOCK_TIMEOUT = 0.5
"""Seconds to wait for another program's transaction."""


def pods_here(state_dir: Path) -> tuple[Pod, ...]:
    """One row for each interface, sorted by address. Raises AddressStoreError, OSError."""
    path = state_dir / paths.ADDRESS_STORE
    if not path.exists():
        return ()
    links = {name for _, name in socket.if_nameindex()}
    with AddressStore(path, durable=False, lock_timeout=LOCK_TIMEOUT) as store:
        # of a container of Docker there is a record for its link and one for each address
        found = [one for one in store.list() if not is_address(one.attachment)]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    rows = [_pod(one, links) for one in found if one.boot_id in ("", boot)]
    return tuple(sorted(rows, key=lambda row: (row.network, _order(row), row.container)))


def _pod(stored: StoredAttachment, links: set[str]) -> Pod:
    attachment = stored.attachment
    addresses = [one.partition("/")[0] for one in _texts(stored.metadata.get("ips"))]
    return Pod(
        str(stored.metadata.get("pod", "")),
        attachment.container,
        attachment.network,
        attachment.ifname,
        tuple(addresses) or tuple(str(one) for one in stored.addresses),
        stored.state,
        stored.host_ifname,
        stored.netns,
        not stored.host_ifname or stored.host_ifname in links,
    )


def _texts(found: object) -> list[str]:
    return [str(one) for one in found] if isinstance(found, list) else []


def _order(row: Pod) -> tuple[tuple[int, bytes], ...]:
    def packed(text: str) -> tuple[int, bytes]:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        try:
            return family, socket.inet_pton(family, text)
        except OSError:
            return 0, text.encode()

    return tuple(packed(one) for one in row.addresses)
