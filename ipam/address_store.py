# SPDX-License-Identifier: Apache-2.0
"""The address store: which pod of this host holds which address, on disk.

Theory of operation
-------------------
Every change is one transaction of an SQLite file (`ipam.address_database`); a commit is on the
disk before it returns (synchronous=FULL), so that a power cut loses nothing that a caller was
told.

An attachment is (network, container, interface): a pod may join several networks, or one
twice. `reserve` records it in state `adding` together with its addresses, before the caller
touches the kernel; `ready` and `deleting` are set by the caller. So a caller that is killed
leaves a record that tells how far it came, and `reserve` for the same attachment gives the
same addresses again.

Each set of ranges remembers the address given last, and the search for a free one starts after
it (`ipam.address_allocator`): a freed address is the last to be given again, when neighbour
caches have forgotten its old holder. Addresses are unique within a pool; by default there is
one for the host, so that networks which share the lease's subnet never clash.

A damaged file is refused with one line. The remedy: move it away. A new file is told first which
attachments live (`ipam.address_recovery`).

Addresses are integers with a family (4 or 6) here: this module is loaded by CNI executables
that run without the daemon, whose start-up time counts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from ipam.address_allocator import (
    Address,
    AddressStoreError,
    AddressTakenError,
    NoFreeAddressError,
    RangeSet,
    allocate,
    next_free,
)
from ipam.address_database import LOCK_TIMEOUT, AddressDatabase
from ipam.address_recovery import FindLiving, LivingAttachment, record_missing
from ipam.last_macs import last_macs, remember_mac

__all__ = [
    "Address",
    "AddressStore",
    "AddressStoreError",
    "AddressTakenError",
    "Attachment",
    "AttachmentExistsError",
    "NoFreeAddressError",
    "RangeSet",
    "StoredAttachment",
]

PROBE = "\0probe"
"""No pool is called so: a network's name starts with a letter or a digit."""
PROBE_SIZE = 32 * 1024
"""Bytes: more than the pages that an ADD writes."""
COLUMNS = "id, network, container, ifname, state, boot_id, netns, host_ifname, note"


class AttachmentExistsError(AddressStoreError):
    """The attachment is there already, and ready: DEL comes before another ADD."""


class Attachment(NamedTuple):
    """One interface of one container in one network."""

    network: str
    container: str
    ifname: str


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """What is recorded of an attachment."""

    attachment: Attachment
    state: str
    """`adding`, `ready` or `deleting`."""
    addresses: tuple[Address, ...]
    boot_id: str
    netns: str = ""
    host_ifname: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The caller's own, kept as JSON in the column `note`."""


class AddressStore:
    """The store in one file. Threads may share an object, or open one per call."""

    def __init__(
        self,
        path: Path,
        *,
        boot_id: str | None = None,
        lock_timeout: float = LOCK_TIMEOUT,
        durable: bool = True,
        find_living: FindLiving | None = None,
        compare: bool = False,
        held_elsewhere: Callable[[], Collection[Address]] = frozenset,
    ) -> None:
        """Name the file; it is made when first used. `boot_id` replaces the kernel's (tests).

        `lock_timeout` is how long to wait for other processes' transactions, in seconds. Not
        `durable`: a power cut may lose the last changes (never the file), which it frees anyway,
        as a reboot does; a process that is killed loses nothing.

        `find_living` finds the host's attachments: those that a new file lacks are recorded before
        anything else; with `compare` those that any file lacks when it is opened first.

        `held_elsewhere` returns addresses that another program has given: they are not given here.
        """
        self._held_elsewhere = held_elsewhere
        self._database = AddressDatabase(
            path,
            boot_id=boot_id,
            lock_timeout=lock_timeout,
            durable=durable,
            find_living=find_living,
            compare=compare,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads; the next use opens new ones."""
        self._database.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    # -- changes -----------------------------------------------------------------------

    def reserve(
        self,
        attachment: Attachment,
        sets: Sequence[RangeSet],
        requested: Collection[tuple[int, int]] = (),
        *,
        pool: str = "",
        netns: str = "",
        host_ifname: str = "",
        metadata: Mapping[str, Any] | None = None,
        in_use: Callable[[Address], bool] = lambda _: False,
        macs: dict[Address, str] | None = None,
    ) -> tuple[Address, ...]:
        """Record an attachment as `adding`, with one address of every set; durable on return.

        `requested` are (family, value) that must be among them. Addresses are unique within
        `pool`; the default one is the host's. Again for an attachment that never got ready it gives
        the addresses it gave, where they are still right. `macs` gets the MACs that the addresses
        had last (`last_macs`, which would be a transaction of its own).

        Where a free address is `in_use` all the same, rows have been lost: those of the attachments
        that live are recorded again first.

        Raises AttachmentExistsError, AddressTakenError, NoFreeAddressError, AddressStoreError.
        """
        with self._database.transaction() as db:
            before = self._find(db, attachment)
            if before is not None and before.state == "ready":
                raise AttachmentExistsError(
                    f"{attachment.ifname} of container {attachment.container} is in network "
                    f"{attachment.network} already, with {_listed(before.addresses)}: "
                    "DEL comes before another ADD"
                )
            if before is not None:
                _delete(db, attachment)
            done = db.execute(
                "INSERT INTO attachment(network, container, ifname, state, boot_id, netns,"
                " host_ifname, note) VALUES (?, ?, ?, 'adding', ?, ?, ?, ?)",
                (
                    *attachment,
                    self._database.boot_id,
                    netns,
                    host_ifname,
                    json.dumps(metadata or {}),
                ),
            )
            again = before.addresses if before is not None else ()
            never = self._held_elsewhere()
            chosen = allocate(db, pool, sets, requested, again, attachment.network, never)
            if any(map(in_use, chosen)) and self._database.record_living(db):
                chosen = allocate(db, pool, sets, requested, again, attachment.network, never)
            db.executemany(
                "INSERT INTO address VALUES (?, ?, ?)",
                [(pool, address.packed, done.lastrowid) for address in chosen],
            )
            if macs is not None:
                macs.update(last_macs(db, chosen))
            return chosen

    def update(
        self,
        attachment: Attachment,
        *,
        state: str | None = None,
        host_ifname: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        mac: str = "",
        addresses: Sequence[Address] = (),
    ) -> bool:
        """Change what is given; False when there is no such attachment.

        `mac` is that of its interface, by which neighbours know `addresses` from now on.
        """
        text = None if metadata is None else json.dumps(metadata)
        with self._database.transaction() as db:
            done = db.execute(
                "UPDATE attachment SET state = ifnull(?, state),"
                " host_ifname = ifnull(?, host_ifname), note = ifnull(?, note)"
                " WHERE network = ? AND container = ? AND ifname = ?",
                (state, host_ifname, text, *attachment),
            )
            if mac and addresses:
                remember_mac(db, addresses, mac)
            return done.rowcount > 0

    def release(self, attachment: Attachment) -> StoredAttachment | None:
        """Delete an attachment and free its addresses; returns what was freed, None: nothing."""
        with self._database.transaction() as db:
            record = self._find(db, attachment)
            if record is not None:
                _delete(db, attachment)
            return record

    def record_missing(self, find_living: FindLiving) -> Sequence[LivingAttachment]:
        """Record the attachments that it finds and the file lacks; returns them."""
        with self._database.transaction() as db:
            return record_missing(db, find_living(), self._database.boot_id)

    # -- questions ---------------------------------------------------------------------

    def find(self, attachment: Attachment) -> StoredAttachment | None:
        """What is recorded of an attachment."""
        with self._database.reading() as db:
            return self._find(db, attachment)

    def last_macs(self, addresses: Sequence[Address]) -> Mapping[Address, str]:
        """The MACs that these addresses had last, of those that had one."""
        with self._database.reading() as db:
            return last_macs(db, addresses)

    def list(self, network: str | None = None) -> Sequence[StoredAttachment]:
        """All attachments of a network, None: of this host."""
        with self._database.reading() as db:
            return _records(db, "" if network is None else " WHERE network = ?", network)

    def list_interface(self, container: str, ifname: str) -> Sequence[StoredAttachment]:
        """All attachments of one interface of a container, whatever their networks are called."""
        with self._database.reading() as db:
            return _records(db, " WHERE container = ? AND ifname = ?", container, ifname)

    def stale(self, network: str, keep: Collection[tuple[str, str]]) -> Sequence[StoredAttachment]:
        """All of a network but the (container, ifname) of `keep`: what GC has to remove."""
        with self._database.reading() as db:
            return self._stale(db, network, keep)

    def require_room(self, network: str, sets: Sequence[RangeSet], *, pool: str = "") -> None:
        """Raise NoFreeAddressError when one of the sets has no free address."""
        with self._database.reading() as db:
            for ranges in sets:
                next_free(db, pool, ranges, self._held_elsewhere(), network)

    def require_writable(self) -> None:
        """Raise AddressStoreError when an attachment could not be recorded now.

        It is tried where the file's directory has little room or can't be written.
        """
        with self._database.reading() as db:
            db.execute("SELECT 1 FROM attachment LIMIT 1").fetchone()
        if self._database.may_be_full():
            probe = (PROBE, "", bytes(PROBE_SIZE))
            with self._database.transaction() as db:
                db.execute("INSERT OR REPLACE INTO given_last VALUES (?, ?, ?)", probe)
            with self._database.transaction() as db:
                db.execute("DELETE FROM given_last WHERE pool = ?", (PROBE,))

    # -- inside ------------------------------------------------------------------------

    @staticmethod
    def _find(db: sqlite3.Connection, attachment: Attachment) -> StoredAttachment | None:
        found = _records(db, " WHERE network = ? AND container = ? AND ifname = ?", *attachment)
        return found[0] if found else None

    @staticmethod
    def _stale(
        db: sqlite3.Connection, network: str, keep: Collection[tuple[str, str]]
    ) -> Sequence[StoredAttachment]:
        records = _records(db, " WHERE network = ?", network)
        return [r for r in records if (r.attachment.container, r.attachment.ifname) not in keep]


def _records(db: sqlite3.Connection, where: str, *values: str | None) -> list[StoredAttachment]:
    held: dict[int, list[Address]] = {}
    given = [value for value in values if value is not None]
    rows = db.execute(f"SELECT {COLUMNS} FROM attachment{where} ORDER BY id", given).fetchall()  # noqa: S608 - text of this module
    if not rows:
        return []
    query = "SELECT attachment, address FROM address"
    if where:
        query += f" WHERE attachment IN (SELECT id FROM attachment{where})"  # noqa: S608
    for number, packed in db.execute(query, given):
        held.setdefault(number, []).append(Address.unpack(packed))
    return [
        StoredAttachment(
            Attachment(network, container, ifname),
            state,
            tuple(sorted(set(held.get(number, ())))),
            boot_id,
            netns,
            host_ifname,
            json.loads(metadata),
        )
        for number, network, container, ifname, state, boot_id, netns, host_ifname, metadata in rows
    ]


def _delete(db: sqlite3.Connection, attachment: Attachment) -> None:
    db.execute(
        "DELETE FROM attachment WHERE network = ? AND container = ? AND ifname = ?", attachment
    )


def _listed(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses)) or "no address"
