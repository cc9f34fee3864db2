# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom, how fast, and under which address.

Each pod gets an echo socket inside its namespace, held by this process. For every pair one
datagram goes from the sender's socket to the receiver's pod address. The source address with
which it arrives proves that no NAT is on the way: it must be one of the sender's own. The
answer's arrival gives the round-trip time.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from lab.time_factor import scaled

PORT = 7  # echo, RFC 862
ATTEMPTS = 3  # round trips per pair; the fastest counts, since the first one waits for ARP
DATAGRAM_TIMEOUT = 0.3  # seconds to wait for one datagram


@dataclass(frozen=True, slots=True)
class MatrixEndpoint:
    """A pod or a host: where it lives and which addresses are its own."""

    name: str
    netns: str
    addresses: tuple[str, ...]
    """Of one family; the first is where others reach it."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """What one sender's datagrams to one receiver met."""

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
    senders: Sequence[MatrixEndpoint],
    receivers: Sequence[MatrixEndpoint],
    timeout: float = 0.0,
    tick: Callable[[PairResult], None] = lambda _: None,
) -> list[PairResult]:
    """Probe every pair of different endpoints.

    Pairs that don't reach each other are probed again until `timeout` seconds have passed since
    the call.
    """
    deadline = time.monotonic() + scaled(timeout)
    with contextlib.ExitStack() as stack:
        listeners = {r.name: stack.enter_context(_socket(r, PORT)) for r in receivers}
        callers = {s.name: stack.enter_context(_socket(s, 0)) for s in senders}
        results = []
        for sender in senders:
            for receiver in receivers:
                if sender.name == receiver.name:
                    continue
                sockets = callers[sender.name], listeners[receiver.name]
                result = _probe(sender, receiver, *sockets)
                while not result.good and time.monotonic() < deadline:
                    result = _probe(sender, receiver, *sockets)
                results.append(result)
                tick(result)
        return results


def _socket(endpoint: MatrixEndpoint, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.addresses[0] else socket.AF_INET

    def opened() -> socket.socket:
        endpoint_socket = socket.socket(family, socket.SOCK_DGRAM)
        endpoint_socket.settimeout(scaled(DATAGRAM_TIMEOUT))
        endpoint_socket.bind(("", port))
        return endpoint_socket

    return run_in(NETNS_DIR / endpoint.netns, opened)


def _probe(
    sender: MatrixEndpoint,
    receiver: MatrixEndpoint,
    caller: socket.socket,
    listener: socket.socket,
) -> PairResult:
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
    return PairResult(
        sender.name, receiver.name, best, seen, seen is not None and seen not in sender.addresses
    )


def _receive(endpoint_socket: socket.socket, token: bytes) -> tuple[str, int]:
    """Wait for this very datagram; late ones of earlier attempts are dropped."""
    while True:
        data, source = endpoint_socket.recvfrom(2048)
        if data == token:
            return str(source[0]), int(source[1])
