"""Notice when Open vSwitch changed behind our back: a restart, a row, a flow.

One thread holds a connection to obr0's OpenFlow socket and asks there for a flow monitor
(NXST_FLOW_MONITOR: Nicira extension, openflow/nicira-ext.h). What it says means "look again",
and the look finds out. When the connection breaks, ovs-vswitchd has died or obr0 is gone; once
it is there again, that too means look. Rows are noticed by the bridges' OpenFlow side (a port
that comes or goes is a port status message).

The switch tells of our own changes, too. Each makes one word that can be told beforehand, so
they are announced here with `expecting`, counted, and taken off the count as they come. If
somebody else's change looks like an announced one, there is one word too many in the end, and
that one means look.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ovs_mesh.openflow import FlowChange

HEADER = struct.Struct(">BBHI")  # struct ofp_header: version, type, length, xid
VERSION = 0x01  # OpenFlow 1.0: the flow monitor's first home
HELLO, ECHO_REQUEST, ECHO_REPLY, SET_CONFIG, STATS_REQUEST = 0, 2, 3, 9, 16
VENDOR_MESSAGE, PORT_STATUS, STATS_REPLY = 4, 12, 17
VENDOR, NICIRA, FLOW_MONITOR = 0xFFFF, 0x00002320, 2
ADD, DELETE, MODIFY, ACTIONS = 1 << 1, 1 << 2, 1 << 3, 1 << 4  # NXFMF_*
ADDED, DELETED, MODIFIED = range(3)  # enum nx_flow_update_event
PORT_ADDED, PORT_GONE, PORT_MODIFIED = range(3)  # enum ofp_port_reason
UPDATE = struct.Struct(">HHHHHHHB")  # struct nx_flow_update_full, up to table_id
UPDATES_AT, REASON_AT, PORT_NAME_AT = 24, 8, 24  # bytes from a message's start
ANY_PORT, ANY_TABLE = 0xFFFF, 0xFF
RETRY = 0.05  # seconds between attempts to reach a switch that is away
QUIET = 0.2  # seconds in which many words make one look
ECHO = 1.0  # seconds after a change of ours in which the switch may still tell us of it

Word = tuple[object, ...]
"""What the switch says in one update: (event, table, priority), or (reason, port name)."""


def words_of(flows: Iterable[FlowChange], come: Iterable[str], go: Iterable[str]) -> Counter[Word]:
    """What a switch will say of a bundle, and of ports that come and go."""
    words: Counter[Word] = Counter((PORT_ADDED, name) for name in come)
    words.update((PORT_GONE, name) for name in go)
    for change in flows:
        event = DELETED if change.verb != "add" else MODIFIED if change.replaces else ADDED
        words[event, *change.place] += 1
    return words


class Watch:
    """Calls `changed` from a thread of its own until closed."""

    def __init__(self, rundir: Path, bridge: str, changed: Callable[[], None]) -> None:
        """Start watching."""
        self._path = rundir / f"{bridge}.mgmt"
        self._changed = changed
        self._stop, self._stopped = socket.socketpair()
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._expected: Counter[Word] = Counter()
        self._expected_until = 0.0
        self._thread = threading.Thread(target=self._run, name="ovs-watch", daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """The switch has been set up once: from now on a missing one is worth a look."""
        self._ready.set()

    @contextlib.contextmanager
    def expecting(self, words: Counter[Word]) -> Iterator[None]:
        """Don't take these words for somebody else's, now and for a moment after."""
        with self._lock:
            if time.monotonic() > self._expected_until:
                self._expected.clear()
            self._expected += words
            self._expected_until = float("inf")
        try:
            yield
        finally:
            with self._lock:
                self._expected_until = time.monotonic() + ECHO

    def _unexpected(self, words: Counter[Word]) -> bool:
        with self._lock:
            if time.monotonic() > self._expected_until:
                self._expected.clear()
            surplus = words - self._expected
            self._expected -= words
        return bool(surplus)

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
            buffer, words = _take(buffer + data, switch)
            if self._unexpected(words):
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


def _take(data: bytes, switch: socket.socket) -> tuple[bytes, Counter[Word]]:
    """Go through whole messages; returns the rest, and what was said."""
    words: Counter[Word] = Counter()
    while len(data) >= HEADER.size:
        _, kind, length, xid = HEADER.unpack_from(data)
        if length < HEADER.size:
            raise OSError("not OpenFlow")
        if len(data) < length:
            break
        message, data = data[:length], data[length:]
        if kind == ECHO_REQUEST:
            payload = message[HEADER.size :]
            switch.sendall(HEADER.pack(VERSION, ECHO_REPLY, length, xid) + payload)
        elif kind == PORT_STATUS and message[REASON_AT] != PORT_MODIFIED:
            name = message[PORT_NAME_AT : PORT_NAME_AT + 16].rstrip(b"\0").decode(errors="replace")
            words[message[REASON_AT], name] += 1
        elif kind == STATS_REPLY:
            words.update(_updates(message[UPDATES_AT:]))
        elif kind == VENDOR_MESSAGE:
            words["paused or resumed",] += 1  # it had more to tell than we took
    return data, words


def _updates(body: bytes) -> Iterator[Word]:
    """What a flow monitor's reply tells; the first one, to the request itself, is empty."""
    while len(body) >= UPDATE.size:
        length, event, _, priority, _, _, _, table = UPDATE.unpack_from(body)
        if length < UPDATE.size:
            raise OSError("not a flow monitor's update")
        yield event, table, priority
        body = body[length:]
