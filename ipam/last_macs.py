# SPDX-License-Identifier: Apache-2.0
"""Which MAC each address had last: whether neighbours may know it with another one.

Pods' MACs follow from their IPv4 addresses, so that mostly it is the same again; where it follows
from the address itself nothing has to be recorded. A flood of
announcements for each new pod would cost every other pod of the bridge some time; by this table
only addresses whose MAC changes are announced.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence

from ipam.address_allocator import Address

SCHEMA = """
CREATE TABLE IF NOT EXISTS last_mac(
    address BLOB PRIMARY KEY,
    mac TEXT NOT NULL
) WITHOUT ROWID
"""
KEPT = 20_000
"""Rows. With more, those of IPv6 are forgotten, where an address hardly ever comes back."""
LOOKS = 500
"""One of so many writers counts the rows."""


def last_macs(db: sqlite3.Connection, addresses: Sequence[Address]) -> dict[Address, str]:
    """The MACs that these addresses had last; those that had none are left out."""
    found = {}
    for address in addresses:
        query = "SELECT mac FROM last_mac WHERE address = ?"
        row = db.execute(query, (address.packed,)).fetchone()
        if row is not None:
            found[address] = str(row[0])
    return found


def remember_mac(db: sqlite3.Connection, addresses: Sequence[Address], mac: str) -> None:
    """Record the MAC that these addresses have now."""
    rows = [(address.packed, mac) for address in addresses]
    db.executemany("INSERT OR REPLACE INTO last_mac(address, mac) VALUES (?, ?)", rows)
    looks = random.randrange(LOOKS) == 0  # noqa: S311 - no secret
    if looks and db.execute("SELECT count(*) FROM last_mac").fetchone()[0] > KEPT:
        db.execute("DELETE FROM last_mac WHERE length(address) = 16")
