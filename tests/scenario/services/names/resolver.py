# SPDX-License-Identifier: Apache-2.0
"""A resolver outside of the cluster, which can lie, and clients in pods."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset

from hostnet.netns import run_in
from lab.processes import NETNS_DIR, enter
from lab.time_factor import scaled


@dataclass(slots=True)
class FakeResolver:
    """UDP and TCP on port 53; answers `A` with 192.0.2.1 to any name. A context manager."""

    netns: str
    address: str
    lies: bool = False
    """Whether forged answers go out before the right one: another id, another question."""
    asked: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        sockets = run_in(NETNS_DIR / self.netns, self._open)
        self._thread = threading.Thread(target=self._serve, args=sockets, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _open(self) -> tuple[socket.socket, socket.socket]:
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind((self.address, 53))
        stream = socket.create_server((self.address, 53))
        return datagram, stream

    def _serve(self, datagram: socket.socket, stream: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, datagram, stream:
            selector.register(datagram, selectors.EVENT_READ)
            selector.register(stream, selectors.EVENT_READ)
            while not self._stop.is_set():
                for key, _ in selector.select(0.05):
                    with contextlib.suppress(OSError):
                        if key.fileobj is stream:
                            self._answer_stream(stream)
                        else:
                            self._answer_datagram(datagram)

    def _answer_datagram(self, datagram: socket.socket) -> None:
        wire, peer = datagram.recvfrom(4096)
        query = dns.message.from_wire(wire)
        if self.lies:
            forged = self._answer(query, "203.0.113.66")
            forged.id ^= 1
            datagram.sendto(forged.to_wire(), peer)
            other = dns.message.make_query("forged.example", "A", id=query.id)
            datagram.sendto(self._answer(other, "203.0.113.66").to_wire(), peer)
            datagram.sendto(b"\0" * 11, peer)
            datagram.sendto(wire[:2] + b"\x80\0" + b"\xff" * 40, peer)
        answer = self._answer(query)
        if str(query.question[0].name).startswith("large"):
            answer.flags |= dns.flags.TC
            answer.answer = []
        datagram.sendto(answer.to_wire(), peer)

    def _answer_stream(self, stream: socket.socket) -> None:
        connection, _ = stream.accept()
        with connection:
            connection.settimeout(scaled(5))
            query, _ = dns.query.receive_tcp(connection)
            dns.query.send_tcp(connection, self._answer(query))

    def _answer(self, query: dns.message.Message, value: str = "192.0.2.1") -> dns.message.Message:
        question = query.question[0]
        self.asked[str(question.name)] += 1
        answer = dns.message.make_response(query, recursion_available=True)
        if str(question.name).startswith("nowhere"):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype.name == "A":
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", value))
        return answer


def resolve(
    netns: str, server: str, name: str, kind: str = "A", *, tcp: bool = False
) -> dns.message.Message:
    """One question to one server, from a namespace. Raises dns.exception.Timeout, OSError."""
    query = dns.message.make_query(name, kind)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    kind_of_socket = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with run_in(NETNS_DIR / netns, lambda: socket.socket(family, kind_of_socket)) as sock:
        timeout = scaled(6)
        if tcp:
            sock.settimeout(timeout)
            sock.connect((server, 53))
            sock.setblocking(False)
            return dns.query.tcp(query, server, timeout=timeout, sock=sock)
        sock.setblocking(False)
        return dns.query.udp(query, server, timeout=timeout, sock=sock)


def values(answer: dns.message.Message) -> list[str]:
    """What the answer has, in order of the texts."""
    return sorted(str(rdata) for rrset in answer.answer for rdata in rrset)


def by_the_c_library(netns: str, resolv_conf: Path, name: str) -> set[str]:
    """The addresses that getaddrinfo(3) finds in a pod with this resolv.conf."""
    script = 'mount --bind "$1" /etc/resolv.conf && exec getent ahosts "$2"'
    done = subprocess.run(
        [*enter(netns), "unshare", "-m", "sh", "-c", script, "sh", str(resolv_conf), name],
        capture_output=True,
        text=True,
        check=False,
    )
    return {line.split()[0] for line in done.stdout.splitlines()}
