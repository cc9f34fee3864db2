# SPDX-License-Identifier: Apache-2.0
"""UDP probes between pods: small ones for the round trip, and ones as large as the MTU.

    request    "FMC1", the check's token, the sender's number, its kind; then zeros
    answer     "FMA2" and the same, the address that the request came from; as long as the request

The receiver says which address it saw, so that a translation (NAT) is found; it also remembers
what arrived, so that a lost answer is told from a lost request. All packets have DF set, and are
sent whatever the kernel believes of the path's MTU.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

REQUEST_MAGIC, ANSWER_MAGIC = b"FMC1", b"FMA2"
HEADER = struct.Struct("!4s8sHBB")
"""Magic, token, the sender's number, ORIGINS index, whether it is large."""
SEEN_SIZE = 16
SMALL = HEADER.size + SEEN_SIZE
ORIGINS = ("pod", "host")
IP_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP headers, by family."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PMTU_PROBE = 3  # linux/in.h, in6.h: set DF, and send whatever the path's MTU is believed to be
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 10, 23, 62
PORT = 8475
"""In the temporary pods only."""
ATTEMPTS = 6
WANTED_ANSWERS = 2
"""Of each address: the first one waits for ARP on the way."""
LARGE_ATTEMPTS = 3
ATTEMPT_TIMEOUT = 0.35
"""Seconds for the answers of one attempt."""
CLOSE_TIMEOUT = 5.0
"""Seconds for a responder to end."""
MAX_ARRIVALS = 1024


def udp_socket(family: int, port: int = 0) -> socket.socket:
    """A socket with DF set, in the calling thread's namespace."""
    sock = socket.socket(FAMILIES[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == 4:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTU_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTU_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        sock.bind(("", port))
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that came in."""

    sender: int
    origin: str
    family: int
    large: bool


class Responder:
    """Answers a check's requests in a thread of its own, until it is closed."""

    def __init__(self, sockets: Mapping[int, socket.socket], token: bytes) -> None:
        """`sockets` by family; they are closed with it."""
        self._sockets = sockets
        self._token = token
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self.arrivals: dict[Arrival, str] = {}
        """And the address that each came from."""
        self._thread = threading.Thread(target=self._run, name="check responder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        os.eventfd_write(self._closing, 1)
        self._thread.join(CLOSE_TIMEOUT)
        os.close(self._closing)
        for sock in self._sockets.values():
            sock.close()

    def _run(self) -> None:
        poll = select.poll()
        families = {sock.fileno(): family for family, sock in self._sockets.items()}
        for descriptor in (*families, self._closing):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._closing:
                    return
                family = families[descriptor]
                with contextlib.suppress(OSError):
                    self._answer(self._sockets[family], family)

    def _answer(self, sock: socket.socket, family: int) -> None:
        data, source = sock.recvfrom(65535)
        if len(data) < SMALL:
            return
        magic, token, sender, origin, large = HEADER.unpack_from(data)
        if magic != REQUEST_MAGIC or token != self._token or origin >= len(ORIGINS):
            return
        address = str(source[0]).partition("%")[0]
        if len(self.arrivals) < MAX_ARRIVALS:
            self.arrivals[Arrival(sender, ORIGINS[origin], family, bool(large))] = address
        seen = socket.inet_pton(FAMILIES[family], address).ljust(SEEN_SIZE, b"\0")
        head = HEADER.pack(ANSWER_MAGIC, token, sender, origin, large)
        sock.sendto(head + seen + data[SMALL:], source)


@dataclass(slots=True)
class Echo:
    """What came of the requests to one address."""

    milliseconds: float | None = None
    """The fastest round trip."""
    answers: int = 0
    """To small requests."""
    seen: str = ""
    large: bool | None = None


class Prober:
    """Sends one end's requests of one family, from one namespace."""

    def __init__(
        self, sock: socket.socket, family: int, token: bytes, number: int, origin: str
    ) -> None:
        """`number` is the end's own; the caller closes the socket."""
        self._sock = sock
        self.family = family
        self.number = number
        self._head = (token, number, ORIGINS.index(origin))
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def probe(self, addresses: Iterable[str], mtu: int | None, port: int = PORT) -> dict[str, Echo]:
        """Ask all addresses at once, again where no answer comes; `mtu` None: small ones only."""
        found = {address: Echo() for address in addresses}
        for _ in range(ATTEMPTS):
            silent = [a for a, echo in found.items() if echo.answers < WANTED_ANSWERS]
            if silent:
                self._round(silent, port, SMALL, found, large=False)
        if mtu is not None:
            size = mtu - IP_HEADERS[self.family]
            for echo in found.values():
                echo.large = None if echo.milliseconds is None else False
            for _ in range(LARGE_ATTEMPTS):
                silent = [a for a, echo in found.items() if echo.large is False]
                if silent:
                    self._round(silent, port, size, found, large=True)
        return found

    def _round(
        self, addresses: list[str], port: int, size: int, found: dict[str, Echo], *, large: bool
    ) -> None:
        token, number, origin = self._head
        request = HEADER.pack(REQUEST_MAGIC, token, number, origin, large).ljust(size, b"\0")
        started, waiting = dict[str, float](), set(addresses)
        for address in addresses:
            started[address] = time.perf_counter()
            with contextlib.suppress(OSError):  # no route, or forbidden: no answer
                self._sock.sendto(request, (address, port))
        deadline = time.monotonic() + ATTEMPT_TIMEOUT
        while waiting and (left := deadline - time.monotonic()) > 0:
            if not self._poll.poll(left * 1000):
                break
            with contextlib.suppress(OSError):
                self._receive(started, waiting, found, large=large)

    def _receive(
        self, started: dict[str, float], waiting: set[str], found: dict[str, Echo], *, large: bool
    ) -> None:
        data, source = self._sock.recvfrom(65535)
        now, address = time.perf_counter(), str(source[0]).partition("%")[0]
        if len(data) < SMALL or address not in waiting:
            return
        if HEADER.unpack_from(data) != (ANSWER_MAGIC, *self._head, large):
            return
        waiting.discard(address)
        echo = found[address]
        if large:
            echo.large = True
            return
        echo.answers += 1
        took = round((now - started[address]) * 1000, 3)
        echo.milliseconds = min(took, echo.milliseconds or took)
        packed = data[HEADER.size : SMALL][: 4 if self.family == 4 else 16]
        echo.seen = socket.inet_ntop(FAMILIES[self.family], packed)
