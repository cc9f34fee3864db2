"""Notice when Open vSwitch changed behind our back: a restart, a row, a flow.

One thread holds a connection to obr0's OpenFlow socket and asks there for a flow monitor
(NXST_FLOW_MONITOR: Nicira extension, openflow/nicira-ext.h). What it says is never read: any
word means "look again", and the look finds out. When the connection breaks, ovs-vswitchd has
died or obr0 is gone; once it is there again, that too means look. Rows are noticed by the
bridges' OpenFlow side (a port that comes or goes is a port status message).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

HEADER = struct.Struct(">BBHI")  # struct ofp_header: version, type, length, xid
VERSION = 0x01  # OpenFlow 1.0: the flow monitor's first home
HELLO, ECHO_REQUEST, ECHO_REPLY, SET_CONFIG, STATS_REQUEST = 0, 2, 3, 9, 16
PORT_STATUS, STATS_REPLY = 12, 17
VENDOR, NICIRA, FLOW_MONITOR = 0xFFFF, 0x00002320, 2
ADD, DELETE, MODIFY, ACTIONS = 1 << 1, 1 << 2, 1 << 3, 1 << 4  # NXFMF_*
ANY_PORT, ANY_TABLE = 0xFFFF, 0xFF
RETRY = 0.05  # seconds between attempts to reach a switch that is away
QUIET = 0.2  # seconds in which many words make one look


class Watch:
    """Calls `changed` from a thread of its own until closed."""

    def __init__(self, rundir: Path, bridge: str, changed: Callable[[], None]) -> None:
        """Start watching."""
        self._path = rundir / f"{bridge}.mgmt"
        self._changed = changed
        self._stop, self._stopped = socket.socketpair()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ovs-watch", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """The switch has been set up once: from now on a missing one is worth a look."""
        self._ready.set()

    def close(self) -> None:
        """Stop; returns when the thread has ended."""
        with contextlib.suppress(OSError):
            self._stop.send(b"x")
        self._thread.join()
        self._stop.close()
        self._stopped.close()

    def _run(self) -> None:
        first = True
        while not self._pause(0.0 if first else RETRY):
            try:
                with _connect(self._path) as switch:
                    if not first and self._ready.is_set():
                        self._changed()
                    self._listen(switch)
            except OSError:
                first = False  # away: tried again
                continue
            first = False
            if self._ready.is_set() and not self._pause(0.0):
                self._changed()  # died, or obr0 was deleted

    def _listen(self, switch: socket.socket) -> None:
        """Until the connection breaks or we are stopped."""
        buffer = b""
        while True:
            readable, _, _ = select.select([switch, self._stopped], [], [])
            if self._stopped in readable:
                return
            data = _all_there_is(switch)
            if not data:
                return
            buffer, news = _take(buffer + data, switch)
            if news:
                self._changed()
                if self._pause(QUIET):
                    return

    def _pause(self, seconds: float) -> bool:
        """Sleep; True when we are to stop."""
        return bool(select.select([self._stopped], [], [], seconds)[0])


def _connect(path: Path) -> socket.socket:
    switch = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        switch.settimeout(5.0)
        switch.connect(str(path))
        switch.sendall(HEADER.pack(VERSION, HELLO, HEADER.size, 1))
        # a connection like ours gets no port status before it says how much of packets it wants
        switch.sendall(HEADER.pack(VERSION, SET_CONFIG, HEADER.size + 4, 3) + b"\0\0\0\x80")
        request = struct.pack(
            ">IHHHBxxxxx", 1, ADD | DELETE | MODIFY | ACTIONS, ANY_PORT, 0, ANY_TABLE
        )
        body = struct.pack(">HHIII", VENDOR, 0, NICIRA, FLOW_MONITOR, 0) + request
        switch.sendall(HEADER.pack(VERSION, STATS_REQUEST, HEADER.size + len(body), 2) + body)
        switch.settimeout(None)
    except BaseException:
        switch.close()
        raise
    return switch


def _all_there_is(switch: socket.socket) -> bytes:
    """What the switch has said so far, empty at its end: many flows are one piece of news."""
    data = switch.recv(1 << 16)
    while data and select.select([switch], [], [], 0)[0]:
        more = switch.recv(1 << 16)
        if not more:
            break
        data += more
    return data


def _take(data: bytes, switch: socket.socket) -> tuple[bytes, bool]:
    """Go through whole messages; returns the rest, and whether something changed."""
    news = False
    while len(data) >= HEADER.size:
        _, kind, length, xid = HEADER.unpack_from(data)
        if length < HEADER.size:
            raise OSError("not OpenFlow")
        if len(data) < length:
            break
        if kind == ECHO_REQUEST:
            payload = data[HEADER.size : length]
            switch.sendall(HEADER.pack(VERSION, ECHO_REPLY, length, xid) + payload)
        elif kind in (PORT_STATUS, STATS_REPLY):
            # the first reply, to the request itself, is empty: 12 bytes and the vendor's 12
            news |= kind == PORT_STATUS or length > HEADER.size + 16
        data = data[length:]
    return data, news
