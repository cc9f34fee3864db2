"""The SQLite file of the address store: schema, connections, transactions, errors.

The file is write-ahead logged. Every change is one `BEGIN IMMEDIATE` transaction: any number of
processes and threads may use the file at once, each thread with a connection of its own.

Rows carry the boot id: pods don't survive a reboot, so the first process that opens the file
after one deletes what the last boot held (proc_sys_kernel(5), random/boot_id).

The schema is read by the versions before and after this one: its names must stay.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from base.private_files import make_private_directory, make_private_file
from ipam.address_allocator import AddressStoreError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOCK_TIMEOUT = 10.0  # seconds to wait for other processes' transactions
LOCK_RETRY_INTERVAL = 0.003  # seconds, longest; SQLite's own busy handler sleeps up to 0.1
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


class AddressDatabase:
    """One file; threads may share an object."""

    def __init__(
        self,
        path: Path,
        *,
        boot_id: str | None = None,
        lock_timeout: float = LOCK_TIMEOUT,
        durable: bool = True,
    ) -> None:
        """Name the file; it is made when first used. `boot_id` replaces the kernel's (tests).

        Not `durable`: a power cut may lose the last changes (never the file), which it frees
        anyway, as a reboot does; a process that is killed loses nothing.
        """
        self.path = path
        self.lock_timeout = lock_timeout
        self.durable = durable
        self.boot_id = boot_id or BOOT_ID.read_text().strip()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Close the connections of all threads; the next use opens anew."""
        with self._mutex:
            connections, self._connections = self._connections, []
            self._local = threading.local()
        for connection in connections:
            connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read in one transaction, rolled back at the end. Raises AddressStoreError."""
        with self._explained():
            db = self._connection()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.rollback()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change in one transaction, committed at the end. Raises AddressStoreError."""
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
        deadline = time.monotonic() + self.lock_timeout
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, LOCK_RETRY_INTERVAL))  # noqa: S311 - not all retry at once
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
        make_private_directory(self.path.parent)
        # SQLite gives the mode of this file to its -wal and -shm files, too
        make_private_file(self.path)
        db = sqlite3.connect(
            self.path, timeout=self.lock_timeout, isolation_level=None, check_same_thread=False
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
            raise AddressStoreError(
                f"address store {self.path} has format {version}, this flatmesh writes "
                f"{SCHEMA_VERSION}: install the newer flatmesh again, or move the file away "
                "and reboot"
            )
        db.execute("PRAGMA journal_mode = WAL")
        self._begin(db)
        try:
            if (
                db.execute("PRAGMA user_version").fetchone()[0] == 0
            ):  # no other process made it meanwhile
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
                text = (
                    f"another process holds it for {self.lock_timeout:g} s: see fuser {self.path}"
                )
            else:
                text = f"{error}; is there room on the disk, and may we write there?"
            raise AddressStoreError(f"address store {self.path}: {text}") from None
        except sqlite3.DatabaseError as error:
            raise AddressStoreError(
                f"address store {self.path} is damaged ({error}): move it away and restart this "
                "host's pods, or reboot"
            ) from None
        except OSError as error:
            raise AddressStoreError(f"address store {self.path}: {error.strerror}") from None
