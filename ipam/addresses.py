"""The address book: which pod of this host holds which address, on disk.

Theory of operation
-------------------
One SQLite file per host, write-ahead logged; a commit is on the disk before it returns
(synchronous=FULL), so a power cut loses nothing that a caller was told. Every change is one
`BEGIN IMMEDIATE` transaction: any number of processes and threads may use the file at once,
each thread with a connection of its own.

An attachment is (network, container, interface): a pod may join several networks, or one
twice. `reserve` records it in state `adding` together with its addresses, before the caller
touches the kernel; `ready` and `deleting` are the caller's to set. So whoever is killed leaves
a record that says how far it came, and `reserve` for the same attachment gives the same
addresses again.

Each set of ranges remembers the address given last, and the search goes on behind it, round
and round: an address that was freed is the last to be given again, when caches that knew its
old holder have long forgotten. Addresses are unique within a pool; by default there is one
for the host, so that networks which share the lease's subnet never clash.

Entries carry the boot id: pods don't survive a reboot, so the first to open the book after
one frees all that the last boot held (proc_sys_kernel(5), random/boot_id).

A damaged file is refused with one line. The mend: move it away, and restart this host's pods
(or reboot it), since a new book doesn't know what they hold.

Addresses are integers with a family (4 or 6) here: this module is loaded by CNI executables
that run without the daemon, whose start-up time counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from ipam.address_choice import (
    Address,
    AddressBookError,
    AddressTakenError,
    NoFreeAddressError,
    RangeSet,
    choose,
    next_free,
)

__all__ = [
    "Address",
    "AddressBook",
    "AddressBookError",
    "AddressTakenError",
    "Attachment",
    "AttachmentExistsError",
    "NoFreeAddressError",
    "RangeSet",
    "Record",
]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PATIENCE = 10.0  # seconds to wait for other processes' transactions
NAP = 0.003  # seconds, longest; SQLite's own busy handler naps up to 0.1
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE attachment(
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,
    container TEXT NOT NULL,
    ifname TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('adding', 'ready', 'deleting')),
    boot_id TEXT NOT NULL,
    netns TEXT NOT NULL,
    host_ifname TEXT NOT NULL,
    note TEXT NOT NULL,
    UNIQUE (network, container, ifname)
);
CREATE TABLE address(
    pool TEXT NOT NULL,
    address BLOB NOT NULL,  -- 4 or 16 bytes, network order: sorts as numbers do
    attachment INTEGER NOT NULL REFERENCES attachment(id) ON DELETE CASCADE,
    PRIMARY KEY (pool, address)
) WITHOUT ROWID;
CREATE INDEX address_of ON address(attachment);
CREATE TABLE given_last(
    pool TEXT NOT NULL,
    ranges TEXT NOT NULL,
    address BLOB NOT NULL,
    PRIMARY KEY (pool, ranges)
) WITHOUT ROWID;
CREATE TABLE boot(boot_id TEXT NOT NULL);
INSERT INTO boot VALUES ('');
"""
COLUMNS = "id, network, container, ifname, state, boot_id, netns, host_ifname, note"


class AttachmentExistsError(AddressBookError):
    """The attachment is there already, and ready: DEL comes before another ADD."""


class Attachment(NamedTuple):
    """One interface of one container in one network."""

    network: str
    container: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the book says about an attachment."""

    attachment: Attachment
    state: str
    """`adding`, `ready` or `deleting`."""
    addresses: tuple[Address, ...]
    boot_id: str
    netns: str = ""
    host_ifname: str = ""
    note: Mapping[str, Any] = field(default_factory=dict)
    """The caller's own, kept as JSON."""


class AddressBook:
    """The book in one file; share one object between threads, or open one per call."""

    def __init__(
        self,
        path: Path,
        *,
        boot_id: str | None = None,
        patience: float = PATIENCE,
        durable: bool = True,
    ) -> None:
        """Name the file; it is made when first used. `boot_id` replaces the kernel's (tests).

        Not `durable`: a power cut may lose the last changes (never the file), which it frees
        anyway, as a reboot does; a process that is killed loses nothing.
        """
        self.path = path
        self.patience = patience
        self.durable = durable
        self.boot_id = boot_id or BOOT_ID.read_text().strip()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._mutex = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads; the next use opens anew."""
        with self._mutex:
            connections, self._connections = self._connections, []
            self._local = threading.local()
        for connection in connections:
            connection.close()

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
        note: Mapping[str, Any] | None = None,
    ) -> tuple[Address, ...]:
        """Record an attachment as `adding`, with one address of every set; durable on return.

        `requested` are (family, value) that must be among them. Addresses are unique within
        `pool`; the default one is the host's. Again for an attachment that never got ready it gives
        the addresses it gave, where they are still right.

        Raises AttachmentExistsError, AddressTakenError, NoFreeAddressError, AddressBookError.
        """
        with self._transaction() as db:
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
                (*attachment, self.boot_id, netns, host_ifname, json.dumps(note or {})),
            )
            again = before.addresses if before is not None else ()
            chosen = choose(db, pool, sets, requested, again, attachment.network)
            db.executemany(
                "INSERT INTO address VALUES (?, ?, ?)",
                [(pool, address.packed, done.lastrowid) for address in chosen],
            )
            return chosen

    def update(
        self,
        attachment: Attachment,
        *,
        state: str | None = None,
        host_ifname: str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change what is given; False when there is no such attachment."""
        text = None if note is None else json.dumps(note)
        with self._transaction() as db:
            done = db.execute(
                "UPDATE attachment SET state = ifnull(?, state),"
                " host_ifname = ifnull(?, host_ifname), note = ifnull(?, note)"
                " WHERE network = ? AND container = ? AND ifname = ?",
                (state, host_ifname, text, *attachment),
            )
            return done.rowcount > 0

    def release(self, attachment: Attachment) -> Record | None:
        """Forget an attachment and free its addresses; returns what was freed, None: nothing."""
        with self._transaction() as db:
            record = self._find(db, attachment)
            if record is not None:
                _delete(db, attachment)
            return record

    def release_except(self, network: str, keep: Collection[tuple[str, str]]) -> Sequence[Record]:
        """Forget all of a network but the (container, ifname) of `keep`; returns what was freed."""
        with self._transaction() as db:
            gone = self._stale(db, network, keep)
            for record in gone:
                _delete(db, record.attachment)
            return gone

    # -- questions ---------------------------------------------------------------------

    def find(self, attachment: Attachment) -> Record | None:
        """What is recorded of an attachment."""
        with self._reading() as db:
            return self._find(db, attachment)

    def list(self, network: str | None = None) -> Sequence[Record]:
        """All attachments of a network, None: of this host."""
        with self._reading() as db:
            return _records(db, "" if network is None else " WHERE network = ?", network)

    def stale(self, network: str, keep: Collection[tuple[str, str]]) -> Sequence[Record]:
        """All of a network but the (container, ifname) of `keep`: what GC has to remove."""
        with self._reading() as db:
            return self._stale(db, network, keep)

    def require_room(self, network: str, sets: Sequence[RangeSet], *, pool: str = "") -> None:
        """Raise NoFreeAddressError when one of the sets has no free address."""
        with self._reading() as db:
            for ranges in sets:
                next_free(db, pool, ranges, (), network)

    # -- inside ------------------------------------------------------------------------

    @staticmethod
    def _find(db: sqlite3.Connection, attachment: Attachment) -> Record | None:
        found = _records(db, " WHERE network = ? AND container = ? AND ifname = ?", *attachment)
        return found[0] if found else None

    @staticmethod
    def _stale(
        db: sqlite3.Connection, network: str, keep: Collection[tuple[str, str]]
    ) -> Sequence[Record]:
        records = _records(db, " WHERE network = ?", network)
        return [r for r in records if (r.attachment.container, r.attachment.ifname) not in keep]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            db = self._connection()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.rollback()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            db = self._connection()
            self._begin(db)
            try:
                yield db
                db.commit()
            except BaseException:
                db.rollback()
                raise

    def _begin(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, NAP))  # noqa: S311 - spreads waiters out
            else:
                return

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection, to the file that has the name now."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is not None:
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self._local.inode:  # noqa: PTH116 - 2 us each
                    return db
            db.close()
            with self._mutex, contextlib.suppress(ValueError):
                self._connections.remove(db)
        db = self._open()
        self._local.db, self._local.inode = db, self.path.stat().st_ino
        with self._mutex:
            self._connections.append(db)
        return db

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            self.path, timeout=self.patience, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
            db.execute("PRAGMA foreign_keys = ON")
            self._ensure_schema(db)
            self._free_last_boot(db)
        except BaseException:
            db.close()
            raise
        return db

    def _ensure_schema(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            return
        if version != 0:
            raise AddressBookError(
                f"address book {self.path} has format {version}, this flatmesh writes "
                f"{SCHEMA_VERSION}: install the newer flatmesh again, or move the file away "
                "and reboot"
            )
        db.execute("PRAGMA journal_mode = WAL")
        self._begin(db)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody was faster
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.commit()
        except BaseException:
            db.rollback()
            raise

    def _free_last_boot(self, db: sqlite3.Connection) -> None:
        if db.execute("SELECT boot_id FROM boot").fetchone()[0] == self.boot_id:
            return
        self._begin(db)
        try:
            db.execute("DELETE FROM attachment WHERE boot_id <> ?", (self.boot_id,))
            db.execute("UPDATE boot SET boot_id = ?", (self.boot_id,))
            db.commit()
        except BaseException:
            db.rollback()
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one line of ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                text = f"another process holds it for {self.patience:g} s: see fuser {self.path}"
            else:
                text = f"{error}; is there room on the disk, and may we write there?"
            raise AddressBookError(f"address book {self.path}: {text}") from None
        except sqlite3.DatabaseError as error:
            raise AddressBookError(
                f"address book {self.path} is damaged ({error}): move it away and restart this "
                "host's pods, or reboot"
            ) from None
        except OSError as error:
            raise AddressBookError(f"address book {self.path}: {error.strerror}") from None


def _records(db: sqlite3.Connection, where: str, *values: str | None) -> list[Record]:
    held: dict[int, list[Address]] = {}
    given = [value for value in values if value is not None]
    rows = db.execute(f"SELECT {COLUMNS} FROM attachment{where} ORDER BY id", given).fetchall()  # noqa: S608 - our own words
    query = "SELECT attachment, address FROM address"
    if where:
        query += f" WHERE attachment IN (SELECT id FROM attachment{where})"  # noqa: S608
    for number, packed in db.execute(query, given):
        held.setdefault(number, []).append(Address.unpack(packed))
    return [
        Record(
            Attachment(network, container, ifname),
            state,
            tuple(sorted(held.get(number, ()))),
            boot_id,
            netns,
            host_ifname,
            json.loads(note),
        )
        for number, network, container, ifname, state, boot_id, netns, host_ifname, note in rows
    ]


def _delete(db: sqlite3.Connection, attachment: Attachment) -> None:
    db.execute(
        "DELETE FROM attachment WHERE network = ? AND container = ? AND ifname = ?", attachment
    )


def _listed(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses)) or "no address"
