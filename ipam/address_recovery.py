# SPDX-License-Identifier: Apache-2.0
"""Puts attachments that are alive but not recorded back into the address store.

A file that is lost, emptied or older than the pods lacks some of them, and would give their
addresses to others. Which pool an address was given from is not known any more. So it is held in
both that it can be from: the host's, and that of the network.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipam.address_allocator import Address

HOST_POOL = ""


@dataclass(frozen=True, slots=True)
class LivingAttachment:
    """An attachment that was found on the host itself."""

    network: str
    container: str
    ifname: str
    addresses: tuple[Address, ...]
    netns: str
    host_ifname: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


FindLiving = Callable[[], Iterable[LivingAttachment]]
"""Finds all attachments of the host. It is called inside the transaction that records them."""


def record_missing(
    db: sqlite3.Connection, living: Iterable[LivingAttachment], boot_id: str
) -> list[LivingAttachment]:
    """Record those that are missing, as ready; returns them. An address has one holder only.

    Attachments without a network are other plugins', whose addresses are held all the same.
    """
    known = set(db.execute("SELECT network, container, ifname FROM attachment"))
    added = []
    for one in living:
        if (one.network, one.container, one.ifname) in known:
            continue
        if not one.network and all(_is_held(db, address) for address in one.addresses):
            continue  # another plugin's, which got its addresses from us
        done = db.execute(
            "INSERT INTO attachment(network, container, ifname, state, boot_id, netns,"
            " host_ifname, note) VALUES (?, ?, ?, 'ready', ?, ?, ?, ?)",
            (
                *(one.network, one.container, one.ifname, boot_id, one.netns, one.host_ifname),
                json.dumps(one.metadata),
            ),
        )
        db.executemany(
            "INSERT OR IGNORE INTO address VALUES (?, ?, ?)",
            [
                (pool, address.packed, done.lastrowid)
                for address in one.addresses
                for pool in {HOST_POOL, one.network}
            ],
        )
        added.append(one)
    return added


def _is_held(db: sqlite3.Connection, address: Address) -> bool:
    query = "SELECT 1 FROM address WHERE pool = ? AND address = ?"
    return db.execute(query, (HOST_POOL, address.packed)).fetchone() is not None
