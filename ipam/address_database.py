# SPDX-License-Identifier: Apache-2.0
"""The SQLite file of the address store: schema, connections, transactions, errors.

The file is write-ahead logged. Every change is one `BEGIN IMMEDIATE` transaction: any number of
processes and threads may use the file at once, each thread with a connection of its own.

Rows carry the boot id: pods don't survive a reboot, so the first process that opens the file
after one deletes what the last boot held (proc_sys_kernel(5), random/boot_id).

The schema is read by the versions before and after this one: its names must stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from base.private_files import make_private_directory, make_private_file
from ipam import last_macs
from ipam.address_allocator import AddressStoreError
from ipam.address_recovery import FindLiving, record_missing

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOCK_TIMEOUT = 10.0  # seconds to wait for other processes' transactions
LOCK_RETRY_INTERVAL = 0.003  # seconds, longest; SQLite's own busy handler sleeps up to 0.1
LITTLE_ROOM, LITTLE_INODES = 1 << 20, 8  # bytes, files: for the write-ahead log and its index
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
        find_living: FindLiving | None = None,
        compare: bool = False,
    ) -> None:
        """Name the file; it is made when first used. `boot_id` replaces the kernel's (tests).

        What `find_living` finds and a new file lacks is recorded before anything else; with
        `compare` what any file lacks that this object opens first.

        Not `durable`: a power cut may lose the last changes (never the file), which it frees
        anyway, as a reboot does; a process that is killed loses nothing.
        """
        self.path = path
        self.lock_timeout = lock_timeout
        self.durable = durable
        self.boot_id = boot_id or BOOT_ID.read_text().strip()
        self._find_living = find_living
        self._compare = compare and find_living is not None
        self._compared: int | None = None
        """The inode of the file that was compared with the attachments that live."""
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

    def may_be_full(self) -> bool:
        """Whether there is little room left for the file, or its directory can't be written."""
        try:
            found = os.statvfs(self.path.parent)
        except OSError:
            return True
        little = found.f_bavail * found.f_frsize < LITTLE_ROOM or found.f_favail < LITTLE_INODES
        return little or not os.access(self.path.parent, os.W_OK)

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
            with self._writing(db):
                yield db

    def record_living(self, db: sqlite3.Connection) -> bool:
        """Record the attachments that live and are missing, within a transaction; whether any."""
        find = self._find_living
        return find is not None and bool(record_missing(db, find(), self.boot_id))

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
                found = os.stat(self.path)  # noqa: PTH116 - 2 us each
                if found.st_ino == self._local.inode and found.st_size:
                    return db
            db.close()
            with self._mutex, contextlib.suppress(ValueError):
                self._connections.remove(db)
        db, inode = self._open()
        self._local.db, self._local.inode = db, inode
        with self._mutex:
            self._connections.append(db)
        return db

    def _remove_truncated(self) -> None:
        """Remove a file that was emptied, with its log, which is that of the old content.

        A file that is being made is empty, too, but has no log yet; once it has one, it is empty no
        more. So the log is looked for first: in the other order the file of another thread or
        process, which makes it between the two looks, would be removed, and both would give the
        same addresses.
        """
        names = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm")]
        with self._mutex, contextlib.suppress(FileNotFoundError):
            if any(name.exists() for name in names[1:]) and not self.path.stat().st_size:
                for name in names:
                    name.unlink(missing_ok=True)

    def _open(self) -> tuple[sqlite3.Connection, int]:
        """A connection, and the inode of the file that it is to."""
        make_private_directory(self.path.parent)
        self._remove_truncated()
        # SQLite gives the mode of this file to its -wal and -shm files, too
        make_private_file(self.path)
        inode = self.path.stat().st_ino  # a file that takes its name from now on has another
        db = sqlite3.connect(
            self.path, timeout=self.lock_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
            db.execute("PRAGMA foreign_keys = ON")
            self._ensure_schema(db)
            self._ensure_last_macs(db)
            self._take_over(db)
        except BaseException:
            db.close()
            raise
        return db, inode

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
        with self._making():
            if db.execute("PRAGMA user_version").fetchone()[0]:
                return  # another made it meanwhile
            db.execute("PRAGMA journal_mode = WAL")
            with self._writing(db):
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        """Only one thread of one process makes the file: two that turn the log on at once wait for
        each other until one gives up. The directory is locked, as the file is SQLite's to lock.
        """  # noqa: D205 - the second sentence belongs to the first
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + self.lock_timeout
            while True:
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(random.uniform(0, LOCK_RETRY_INTERVAL))  # noqa: S311 - see _begin
            yield
        finally:
            os.close(directory)

    def _ensure_last_macs(self, db: sqlite3.Connection) -> None:
        """Make a table that files of earlier versions lack, which ignore it."""
        query = "SELECT 1 FROM sqlite_master WHERE name = 'last_mac'"
        if db.execute(query).fetchone() is None:
            with self._writing(db):
                db.execute(last_macs.SCHEMA)

    def _take_over(self, db: sqlite3.Connection) -> None:
        """Free what the last boot held, and record what lives and is missing.

        A new file has no boot id until somebody has done the second, who can.
        """
        before = db.execute("SELECT boot_id FROM boot").fetchone()[0]
        inode = self.path.stat().st_ino
        compare = self._compare and inode != self._compared
        if before == self.boot_id and not compare:
            return
        incomplete = not before and self._find_living is None
        old = "SELECT 1 FROM attachment WHERE boot_id <> ? LIMIT 1"
        if incomplete and db.execute(old, (self.boot_id,)).fetchone() is None:
            return
        with self._writing(db):
            db.execute("DELETE FROM attachment WHERE boot_id <> ?", (self.boot_id,))
            if self._find_living is not None:
                record_missing(db, self._find_living(), self.boot_id)
            if not incomplete:
                db.execute("UPDATE boot SET boot_id = ?", (self.boot_id,))
        self._compared = inode

    @contextlib.contextmanager
    def _writing(self, db: sqlite3.Connection) -> Iterator[None]:
        self._begin(db)
        try:
            yield
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
                f"address store {self.path} is damaged ({error}): move it away; the "
                "addresses of pods that run are found again"
            ) from None
        except OSError as error:
            raise AddressStoreError(f"address store {self.path}: {error.strerror}") from None
