# SPDX-License-Identifier: Apache-2.0
"""The responder's sockets: UDP and TCP at the gateways' addresses, port 53.

The addresses are bound before they are there (IP_FREEBIND): kbr0 is made with the first pod. Only
clients within the cluster's networks are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from services.names.answer import Answer, Question, Responder
from services.names.forwarder import PORT, Forwarder
from services.names.udp_queue import FairQueue

log = logging.getLogger("services.names")
IPV6_FREEBIND = 78  # linux/in6.h
READ_AT_ONCE = 1000  # datagrams
SERVE_AT_ONCE = 32  # queries until other events are looked at
RECEIVE_BUFFER = 1 << 20  # bytes
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_OF_A_CLIENT = 32
IDLE_TIMEOUT = 10.0  # seconds


@dataclass(slots=True)
class NameServer:
    """Serves one configuration; `close` ends it. For one event loop."""

    responder: Responder
    forwarder: Forwarder
    counts: Counter[str] = field(default_factory=Counter)
    port: int = PORT
    _queue: FairQueue = field(default_factory=FairQueue)
    _busy: bool = False
    _sockets: list[socket.socket] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _connections: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> None:
        """Open the sockets. Raises OSError; none is open then."""
        try:
            for address in self.responder.gateways:
                datagrams = bound(address, self.port, socket.SOCK_DGRAM)
                self._sockets.append(datagrams)
                stream = bound(address, self.port, socket.SOCK_STREAM)
                self._servers.append(await asyncio.start_server(self._connected, sock=stream))
        except BaseException:
            self.close()
            raise
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.add_reader(one, self._read, one)

    def close(self) -> None:
        """Close the sockets."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.remove_reader(one)
            one.close()
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        self._sockets, self._servers = [], []

    def _allowed(self, client: str) -> bool:
        address = ip_address(client.partition("%")[0])
        networks = self.responder.networks
        return any(address.version == one.version and address in one for one in networks)

    # -- UDP ---------------------------------------------------------------------------------

    def _read(self, sock: socket.socket) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                wire, peer = sock.recvfrom(4096)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error to an answer of ours
                continue
            self._queue.put(peer[0], (sock, wire, peer))
        if not self._busy:
            self._busy = True
            self._serve()

    def _serve(self) -> None:
        for _ in range(SERVE_AT_ONCE):
            if not self._queue:
                self._busy = False
                break
            try:
                self._answer(*self._queue.take())
            except Exception:  # a fault that one query meets must not stop the others
                self.counts["failed"] += 1
                log.exception("a query")
        else:
            asyncio.get_running_loop().call_soon(self._serve)
        self.counts["dropped"] += self._queue.dropped
        self._queue.dropped = 0

    def _answer(self, sock: socket.socket, wire: bytes, peer: Any) -> None:
        self.counts["queries"] += 1
        if not self._allowed(peer[0]):
            self.counts["refused"] += 1
            return
        found = self.responder.answer(wire, stream=False)
        if isinstance(found, Answer):
            _send(sock, found.wire, peer)
        elif found is not None and self.forwarder.full(peer[0]):
            self.counts["dropped"] += 1
        elif found is not None:
            self.counts["forwarded"] += 1
            self._start(self._forward(sock, found, peer))

    async def _forward(self, sock: socket.socket, question: Question, peer: Any) -> None:
        _send(sock, await self.forwarder.ask(question, peer[0], stream=False), peer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- TCP ---------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")[0]
        room = (
            self._connections.total() < MAX_CONNECTIONS
            and self._connections[client] < MAX_CONNECTIONS_OF_A_CLIENT
        )
        if not (room and self._allowed(client)):
            self.counts["refused"] += 1
            writer.close()
            return
        self._connections[client] += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._converse(reader, writer, client)
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_TIMEOUT):
                size = int.from_bytes(await reader.readexactly(2), "big")
                wire = await reader.readexactly(size)
            self.counts["queries"] += 1
            found = self.responder.answer(wire, stream=True)
            if found is None:
                return
            if isinstance(found, Question):
                if self.forwarder.full(client):
                    return
                self.counts["forwarded"] += 1
                answer = await self.forwarder.ask(found, client, stream=True)
            else:
                answer = found.wire
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(IDLE_TIMEOUT):
                await writer.drain()


def bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket at an address that may not be there yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND, linux/in.h
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
    except OSError as error:
        sock.close()
        name = "tcp" if kind == socket.SOCK_STREAM else "udp"
        raise OSError(error.errno, f"{name} port {port} of {address}: {error.strerror}") from None
    return sock


def _send(sock: socket.socket, wire: bytes, peer: Any) -> None:
    with contextlib.suppress(OSError):  # the client asks again
        sock.sendto(wire, peer)
