# SPDX-License-Identifier: Apache-2.0
"""Notices when another program changes Open vSwitch: a restart, a port, a flow.

One thread holds a connection to obr0's OpenFlow socket, which tells of every change of a flow
or port (`ovs_mesh.flow_updates`). For a change by another program it calls `changed`, and
the next reconcile compares everything. When the connection breaks, ovs-vswitchd has died or obr0
is gone: `changed` is called then, and again when the socket answers once more.

The switch tells of our own changes, too. Which updates they cause is known beforehand, so they
are announced here with `expecting`, counted, and taken off the count as they come. If another
program's change looks like an announced one, there is one update too many in the end, and
that one calls `changed`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ovs_mesh.flow_updates import FlowUpdate, connect, read_messages

RETRY_INTERVAL = 0.05  # seconds between attempts to reach a switch that is away
QUIET_INTERVAL = 0.2  # seconds after a call of `changed` in which more updates make no other call
UPDATE_TIMEOUT = 1.0  # seconds after a change of ours in which the switch may still tell us of it


class Watch:
    """Calls `changed` from a thread of its own until closed."""

    def __init__(self, rundir: Path, bridge: str, changed: Callable[[], None]) -> None:
        """Start watching; `rundir` is Open vSwitch's run directory."""
        self._path = rundir / f"{bridge}.mgmt"
        self._changed = changed
        self._stop, self._stopped = socket.socketpair()
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._expected: Counter[FlowUpdate] = Counter()
        self._expected_until = 0.0
        self._thread = threading.Thread(target=self._run, name="ovs-watch", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """The switch has been set up once: from now on `changed` is called when it goes away."""
        self._ready.set()

    @contextlib.contextmanager
    def expecting(self, updates: Counter[FlowUpdate]) -> Iterator[None]:
        """Take these updates for our own, while the context lasts and UPDATE_TIMEOUT after."""
        with self._lock:
            if time.monotonic() > self._expected_until:
                self._expected.clear()
            self._expected += updates
            self._expected_until = float("inf")
        try:
            yield
        finally:
            with self._lock:
                self._expected_until = time.monotonic() + UPDATE_TIMEOUT

    def _unexpected(self, updates: Counter[FlowUpdate]) -> bool:
        with self._lock:
            if time.monotonic() > self._expected_until:
                self._expected.clear()
            surplus = updates - self._expected
            self._expected -= updates
        return bool(surplus)

    def close(self) -> None:
        """Stop; returns when the thread has ended, after at most CONNECT_TIMEOUT."""
        with contextlib.suppress(OSError):
            self._stop.send(b"x")
        self._thread.join()
        self._stop.close()
        self._stopped.close()

    def _run(self) -> None:
        first = True
        while not self._pause(0.0 if first else RETRY_INTERVAL):
            try:
                with connect(self._path) as switch:
                    if not first and self._ready.is_set():
                        self._changed()
                    self._listen(switch)
            except OSError:
                first = False  # the switch is away: tried again
                continue
            first = False
            if self._ready.is_set() and not self._pause(0.0):
                self._changed()  # ovs-vswitchd died, or obr0 was deleted

    def _listen(self, switch: socket.socket) -> None:
        """Read until the connection breaks or `close` is called."""
        buffer = b""
        while True:
            readable, _, _ = select.select([switch, self._stopped], [], [])
            if self._stopped in readable:
                return
            data = _receive_all(switch)
            if not data:
                return
            buffer, updates = read_messages(buffer + data, switch)
            if self._unexpected(updates):
                self._changed()
                if self._pause(QUIET_INTERVAL):
                    return

    def _pause(self, seconds: float) -> bool:
        """Sleep; True when `close` was called."""
        return bool(select.select([self._stopped], [], [], seconds)[0])


def _receive_all(switch: socket.socket) -> bytes:
    """What has arrived so far, empty at the end of the connection.

    A change of many flows arrives in many pieces, which should call `changed` once.
    """
    data = switch.recv(1 << 16)
    while data and select.select([switch], [], [], 0)[0]:
        more = switch.recv(1 << 16)
        if not more:
            break
        data += more
    return data
