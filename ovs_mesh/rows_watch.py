# SPDX-License-Identifier: Apache-2.0
"""Notices when another program changes rows of ours in Open vSwitch's database.

One thread holds a connection of its own, to which the server sends every change, whoever made it.
The rows are then compared with those that the last reconcile applied, so that a change of ours is
no reason for anything.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ovs_mesh.clients.ovsdb import Ovsdb
from ovs_mesh.errors import OvsError
from ovs_mesh.rows import BridgeRow, row_changes

RETRY_INTERVAL = 1.0  # seconds between attempts to reach a server that is away
APPLYING_INTERVAL = 0.05  # seconds between looks whether a reconcile has ended
LONGEST_WAIT = 60.0  # seconds
QUIET_INTERVAL = 0.2  # seconds after a call of `changed` in which more changes make no other call


class RowsWatch:
    """Calls `changed` from a thread of its own until closed."""

    def __init__(
        self,
        rundir: Path,
        applied: Callable[[], Sequence[BridgeRow] | None],
        changed: Callable[[], None],
    ) -> None:
        """Start watching; `applied` returns the rows as they should be, None while they change."""
        self._rundir = rundir
        self._applied = applied
        self._changed = changed
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="ovs-rows-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns when the thread has ended, or is left behind while a server hangs."""
        with contextlib.suppress(OSError):
            self._stop.send(b"x")
        self._thread.join(RETRY_INTERVAL)
        if not self._thread.is_alive():
            self._stop.close()
            self._stopped.close()

    def _run(self) -> None:
        while not self._pause(0.0):
            try:
                database = Ovsdb(self._rundir)
            except OvsError:
                self._pause(RETRY_INTERVAL)
                continue
            with contextlib.closing(database), contextlib.suppress(OvsError, OSError):
                self._follow(database)

    def _follow(self, database: Ovsdb) -> None:
        unsure = True
        """Whether rows have changed since they were compared last."""
        while not self._pause(0.0):
            rows = self._applied()
            if unsure and rows is not None:
                unsure = False
                if self._differ(rows, database):
                    self._changed()
                    self._pause(QUIET_INTERVAL)
            wait = APPLYING_INTERVAL if unsure else LONGEST_WAIT
            unsure |= database.wait_for_change(self._stopped.fileno(), wait)

    def _differ(self, rows: Sequence[BridgeRow], database: Ovsdb) -> bool:
        try:
            return bool(row_changes(rows, database.actual()))
        except OvsError:
            return True  # somebody has a port or bridge of that name: `reconcile` tells of it

    def _pause(self, seconds: float) -> bool:
        """Sleep; True when `close` was called."""
        return bool(select.select([self._stopped], [], [], seconds)[0])
