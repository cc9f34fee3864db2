# SPDX-License-Identifier: Apache-2.0
"""A server in a pod that tells each client who it is, and which address it saw."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from lab.time_factor import scaled
from tests.scenario.services import sctp_peer

ANSWER_TIMEOUT = 3.0
"""Seconds for an answer; a packet that was lost is no answer."""
REFUSED = "refused"
NO_ANSWER = "no answer"


@dataclass(slots=True)
class PeerServer:
    """TCP, UDP and SCTP on one port, both families; answers `NAME ADDRESS`. A context manager."""

    netns: str
    name: str
    port: int = 8080
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _sockets: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._sockets = run_in(NETNS_DIR / self.netns, self._open)
        for one in self._sockets:
            self._selector.register(one, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for one in self._sockets:
            one.close()
        self._selector.close()

    def _open(self) -> list[socket.socket]:
        stream = socket.create_server(
            ("::", self.port), family=socket.AF_INET6, dualstack_ipv6=True
        )
        datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagram.bind(("::", self.port))
        raw = [sctp_peer.raw_socket(one) for one in (socket.AF_INET, socket.AF_INET6)]
        return [stream, datagram, *raw]

    def _serve(self) -> None:
        stream, datagram, *raw = self._sockets
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                with contextlib.suppress(OSError):
                    if key.fileobj is stream:
                        connection, peer = stream.accept()
                        with connection:
                            connection.sendall(self._answer(peer))
                    elif key.fileobj is datagram:
                        _, peer = datagram.recvfrom(2048)
                        datagram.sendto(self._answer(peer), peer)
                    else:
                        self._answer_sctp(next(one for one in raw if one is key.fileobj))

    def _answer_sctp(self, raw: socket.socket) -> None:
        packet, peer = sctp_peer.received(raw)
        reply = sctp_peer.answer(packet, self.port, self._answer((peer,)))
        if reply is not None:
            raw.sendto(reply, (peer, 0))

    def _answer(self, peer: tuple[object, ...]) -> bytes:
        return f"{self.name} {str(peer[0]).removeprefix('::ffff:')}".encode()


def ask(netns: str, address: str, port: int, protocol: str = "tcp", source_port: int = 0) -> str:
    """The server's answer; REFUSED, or NO_ANSWER."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def opened() -> socket.socket:
        if protocol == "sctp":
            return sctp_peer.raw_socket(family)
        return socket.socket(family, kind)

    with run_in(_path(netns), opened) as client:
        client.settimeout(scaled(ANSWER_TIMEOUT))
        try:
            if protocol == "sctp":
                timeout = scaled(ANSWER_TIMEOUT)
                return sctp_peer.ask_sctp(client, address, port, timeout).decode()
            if source_port:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                client.bind(("", source_port))
            client.connect((address, port))
            if protocol == "udp":
                client.send(b"who")
            return client.recv(2048).decode() or REFUSED
        except TimeoutError:
            return NO_ANSWER
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
                return REFUSED
            return f"{errno.errorcode.get(error.errno or 0)}"


def _path(netns: str) -> Path:
    return NETNS_DIR / netns


Ask = Callable[..., str]
