"""Who reaches whom, how fast, and under which address.

Each pod gets an echo socket inside its namespace, held by this process. For every pair one
datagram goes from the sender's socket to the receiver's pod address; the receiver notes
which source address it *saw*. That is the proof of "no NAT": the address seen must be one
of the sender's own. The answer's arrival gives the round-trip time.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hostnet.netns import run_in
from lab.processes import NETNS_DIR

PORT = 7  # echo, RFC 862
ATTEMPTS = 3  # round trips per pair; the best one counts, the first pays for ARP and caches
TIMEOUT = 0.3  # seconds to wait for one datagram


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod or a host: where it lives and which addresses are its own."""

    name: str
    netns: str
    addresses: tuple[str, ...]
    """Of one family; the first is where others reach it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of one pair."""

    sender: str
    receiver: str
    rtt: float | None = None
    """Seconds; None when no answer came."""
    seen: str | None = None
    """The sender's address as the receiver saw it; None when nothing arrived."""
    nat: bool = False
    """Whether `seen` is not an address of the sender."""

    @property
    def good(self) -> bool:
        """Reached, answered, and not translated."""
        return self.rtt is not None and not self.nat


def measure(
    senders: Sequence[Endpoint],
    receivers: Sequence[Endpoint],
    patience: float = 0.0,
    tick: Callable[[Cell], None] = lambda _: None,
) -> list[Cell]:
    """Probe every pair but a thing and itself.

    For `patience` seconds in all, pairs that don't reach each other yet are tried again.
    """
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        listeners = {r.name: stack.enter_context(_socket(r, PORT)) for r in receivers}
        callers = {s.name: stack.enter_context(_socket(s, 0)) for s in senders}
        cells = []
        for sender in senders:
            for receiver in receivers:
                if sender.name == receiver.name:
                    continue
                cell = _probe(sender, callers[sender.name], receiver, listeners[receiver.name])
                while not cell.good and time.monotonic() < deadline:
                    cell = _probe(sender, callers[sender.name], receiver, listeners[receiver.name])
                cells.append(cell)
                tick(cell)
        return cells


def _socket(endpoint: Endpoint, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.addresses[0] else socket.AF_INET

    def opened() -> socket.socket:
        endpoint_socket = socket.socket(family, socket.SOCK_DGRAM)
        endpoint_socket.settimeout(TIMEOUT)
        endpoint_socket.bind(("", port))
        return endpoint_socket

    return run_in(NETNS_DIR / endpoint.netns, opened)


def _probe(
    sender: Endpoint, caller: socket.socket, receiver: Endpoint, listener: socket.socket
) -> Cell:
    best, seen = None, None
    for attempt in range(ATTEMPTS):
        token = f"{sender.name}>{receiver.name} {attempt} {time.monotonic_ns()}".encode()
        started = time.perf_counter()
        try:
            caller.sendto(token, (receiver.addresses[0], PORT))
            source = _receive(listener, token)
            seen = source[0]
            listener.sendto(token, source)
            _receive(caller, token)
        except OSError:  # timed out, or the kernel knows no route
            continue
        rtt = time.perf_counter() - started
        best = rtt if best is None else min(best, rtt)
    return Cell(
        sender.name, receiver.name, best, seen, seen is not None and seen not in sender.addresses
    )


def _receive(endpoint_socket: socket.socket, token: bytes) -> tuple[str, int]:
    """Wait for this very datagram; late ones of earlier attempts are dropped."""
    while True:
        data, source = endpoint_socket.recvfrom(2048)
        if data == token:
            return str(source[0]), int(source[1])
