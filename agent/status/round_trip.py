# SPDX-License-Identifier: Apache-2.0
"""Echo requests to many addresses at once: ICMP (RFC 792) and ICMPv6 (RFC 4443).

One raw socket per family. All requests are sent at once, and answers are taken as they come, so
that a hundred hosts that are down cost no more time than one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterable

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of the request and of its answer."""
HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
TOKEN_SIZE = 8  # bytes: tells our requests from those of others
ICMP_FILTER = 1  # linux/icmp.h, for level SOL_RAW
SOL_RAW = 255
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
RECEIVE_BUFFER = 4 << 20  # bytes


def round_trips(addresses: Iterable[str], timeout: float) -> dict[str, float]:
    """Seconds to each of the addresses that answers within `timeout` seconds.

    Raises OSError when there can be no raw socket.
    """
    wanted = dict.fromkeys(addresses)
    families = {
        family: [one for one in wanted if (":" in one) == (family == socket.AF_INET6)]
        for family in ECHO
    }
    token, found = os.urandom(TOKEN_SIZE), dict[str, float]()
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        poll, sockets, sent = select.poll(), dict[int, socket.socket](), dict[str, float]()
        for family, targets in families.items():
            if targets:
                sock = stack.enter_context(_raw(family))
                sockets[sock.fileno()] = sock
                poll.register(sock, select.POLLIN)
                _send(sock, targets, token, sent)
        while sent.keys() - found.keys() and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                _receive(sockets[descriptor], token, sent, found)
    return found


def _raw(family: socket.AddressFamily) -> socket.socket:
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    if family == socket.AF_INET:  # answers alone
        sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << 0) & 0xFFFFFFFF))
    return sock


def _send(sock: socket.socket, targets: list[str], token: bytes, sent: dict[str, float]) -> None:
    kind, _ = ECHO[sock.family]
    for number, target in enumerate(targets):
        body = HEADER.pack(kind, 0, 0, number >> 16, number & 0xFFFF) + token
        if sock.family == socket.AF_INET:
            body = HEADER.pack(kind, 0, _checksum(body), number >> 16, number & 0xFFFF) + token
        sent[target] = time.perf_counter()
        try:
            sock.sendto(body, (target, 0))
        except OSError:  # no route, or forbidden here: no answer
            del sent[target]


def _receive(
    sock: socket.socket, token: bytes, sent: dict[str, float], found: dict[str, float]
) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, source = sock.recvfrom(2048)
            now, address = time.perf_counter(), str(source[0]).partition("%")[0]
            if sock.family == socket.AF_INET:
                data = data[(data[0] & 15) * 4 :]
            answers = len(data) >= HEADER.size and data[0] == ECHO[sock.family][1]
            if answers and data[HEADER.size :] == token and address in sent:
                found.setdefault(address, now - sent[address])


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
