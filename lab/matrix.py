# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom, how fast, and under which address.

Each receiver answers probes inside its namespace, and each sender sends some to all receivers at
once: those of `flatmesh check` (`agent.check.echo`), but from this process, which may enter all
namespaces of the lab. The source address that the receiver saw proves that no NAT is on the way: it
must be one of the sender's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from agent.check.echo import Arrival, Echo, Prober, Responder, udp_socket
from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from lab.time_factor import scaled

PORT = 7  # echo, RFC 862
ORIGIN = "pod"
"""Of all probes: a sender has one address of a family."""


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
    if not receivers:
        return []
    family, token = _family(receivers[0]), os.urandom(8)
    with contextlib.ExitStack() as stack:
        responders = {}
        for receiver in receivers:
            listener = _open(receiver, family, PORT)
            responders[receiver.name] = Responder({family: listener}, token)
            stack.callback(responders[receiver.name].close)
        results = []
        for number, sender in enumerate(senders):
            with _open(sender, family) as sock:
                prober = Prober(sock, family, token, number, ORIGIN)
                others = [one for one in receivers if one.name != sender.name]
                found = _probe(prober, sender, others, responders, deadline)
            results += found
            for result in found:
                tick(result)
        return results


def _probe(
    prober: Prober,
    sender: MatrixEndpoint,
    receivers: Iterable[MatrixEndpoint],
    responders: Mapping[str, Responder],
    deadline: float,
) -> list[PairResult]:
    """The results of one sender, in the order of the receivers."""
    results: dict[str, PairResult] = {}
    waiting = {receiver.addresses[0]: receiver.name for receiver in receivers}
    order = list(waiting.values())
    while waiting:
        for address, echo in prober.probe(waiting, None, PORT).items():
            name = waiting[address]
            arrivals = responders[name].arrivals
            arrival = Arrival(prober.number, ORIGIN, prober.family, large=False)
            results[name] = _result(sender, name, echo, arrivals.get(arrival))
        waiting = {a: name for a, name in waiting.items() if not results[name].good}
        if time.monotonic() > deadline:
            break
    return [results[name] for name in order]


def _result(
    sender: MatrixEndpoint, receiver: str, echo: Echo, arrived_from: str | None
) -> PairResult:
    seen = echo.seen or arrived_from
    rtt = None if echo.milliseconds is None else echo.milliseconds / 1000
    return PairResult(sender.name, receiver, rtt, seen, bool(seen) and seen not in sender.addresses)


def _family(endpoint: MatrixEndpoint) -> int:
    return 6 if ":" in endpoint.addresses[0] else 4


def _open(endpoint: MatrixEndpoint, family: int, port: int = 0) -> socket.socket:
    return run_in(NETNS_DIR / endpoint.netns, partial(udp_socket, family, port))
