# SPDX-License-Identifier: Apache-2.0
"""Asks the host's resolvers for what is not ours.

Each question goes out from a port of its own, with an id of its own; an answer counts only from the
server that was asked, with this id and this question. Questions that are asked again meanwhile wait
for the same answer: were one of the servers to ask us in turn, the question would end there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from services.names.answer import PAYLOAD, Question, failure, rendered
from services.names.resolv_conf import ResolvConf

TRY_TIMEOUT = 1.5  # seconds until the next server is asked
ROUNDS = 2  # times that each server is asked
TOTAL_TIMEOUT = 4.5  # seconds for all of it: clients of resolv.conf(5) wait for 5
MAX_QUESTIONS = 500  # asked at one time
MAX_OF_A_CLIENT = 100
PORT = 53
_Key = tuple[str, int, int, bool, bool, bool, bool]


class NoAnswerError(Exception):
    """A server gave no answer that counts."""


@dataclass(slots=True)
class Forwarder:
    """For one event loop."""

    resolv_conf: ResolvConf
    port: int = PORT
    asked: dict[_Key, asyncio.Task[dns.message.Message | None]] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    """How many answers each client waits for."""

    def full(self, client: str) -> bool:
        """Whether this client can't be served now."""
        return (
            self.clients.get(client, 0) >= MAX_OF_A_CLIENT
            or sum(self.clients.values()) >= MAX_QUESTIONS
        )

    async def ask(self, question: Question, client: str, *, stream: bool) -> bytes:
        """The answer's bytes, with the client's id and within its limit."""
        self.clients[client] = self.clients.get(client, 0) + 1
        try:
            found = await self._answer(question.message, stream=stream)
        finally:
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]
        query = question.message
        if found is None:
            return failure(query, dns.rcode.SERVFAIL)
        answer = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD)
        answer.flags |= found.flags & (dns.flags.AD | dns.flags.TC)
        answer.set_rcode(found.rcode())
        answer.answer, answer.authority = found.answer, found.authority
        answer.additional = found.additional
        return rendered(answer, question.limit)

    async def _answer(self, query: dns.message.Message, *, stream: bool) -> Any:
        one = query.question[0]
        flags = query.flags
        key = (
            *(str(one.name).lower(), int(one.rdtype), int(one.rdclass), stream),
            *(bool(flags & dns.flags.RD), bool(flags & dns.flags.CD)),
            bool(query.ednsflags & dns.flags.DO),
        )
        task = self.asked.get(key)
        if task is None:
            task = asyncio.create_task(self._ask_all(query, stream=stream))
            self.asked[key] = task
            task.add_done_callback(lambda _: self.asked.pop(key, None))
        return await asyncio.shield(task)

    async def _ask_all(
        self, query: dns.message.Message, *, stream: bool
    ) -> dns.message.Message | None:
        """The first answer; of servers that fail the last one's failure; None: no answer."""
        servers = self.resolv_conf.servers()
        failed = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOTAL_TIMEOUT):
                for server in servers * ROUNDS:
                    try:
                        found = await self._ask_one(server, query, stream=stream)
                    except (OSError, NoAnswerError):
                        continue
                    if found.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                        return found
                    failed = found
        return failed

    async def _ask_one(
        self, server: str, query: dns.message.Message, *, stream: bool
    ) -> dns.message.Message:
        """Raises OSError (TimeoutError among them), NoAnswerError."""
        sent = _own_query(query)
        async with asyncio.timeout(TRY_TIMEOUT):
            if stream:
                return await self._by_stream(server, sent)
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: _Datagrams(sent), remote_addr=(server, self.port)
            )
            try:
                transport.sendto(sent.to_wire())
                return await protocol.answer
            finally:
                transport.close()

    async def _by_stream(self, server: str, sent: dns.message.Message) -> dns.message.Message:
        reader, writer = await asyncio.open_connection(server, self.port)
        try:
            wire = sent.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await reader.readexactly(2), "big")
            found = _accepted(sent, await reader.readexactly(size))
        except asyncio.IncompleteReadError:
            raise NoAnswerError from None
        finally:
            writer.close()
        if found is None:
            raise NoAnswerError
        return found


class _Datagrams(asyncio.DatagramProtocol):
    """Waits for the answer to one query."""

    def __init__(self, sent: dns.message.Message) -> None:
        self._sent = sent
        self.answer: asyncio.Future[dns.message.Message] = (
            asyncio.get_running_loop().create_future()
        )

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Take the answer; anything else is passed over, as it may be forged."""
        del addr
        found = _accepted(self._sent, data)
        if found is not None and not self.answer.done():
            self.answer.set_result(found)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(exc)


def _own_query(query: dns.message.Message) -> dns.message.Message:
    """The same question in a message of our own: no option of the client's goes along."""
    one = query.question[0]
    sent = dns.message.make_query(
        one.name,
        one.rdtype,
        one.rdclass,
        use_edns=0 if query.edns >= 0 else None,
        want_dnssec=bool(query.ednsflags & dns.flags.DO),
        payload=PAYLOAD if query.edns >= 0 else None,
        id=secrets.randbelow(1 << 16),
    )
    sent.flags = query.flags & (dns.flags.RD | dns.flags.CD | dns.flags.AD)
    return sent


def _accepted(sent: dns.message.Message, wire: bytes) -> dns.message.Message | None:
    """The answer to what was sent; None: it is none."""
    if len(wire) < 12 or int.from_bytes(wire[:2], "big") != sent.id:
        return None
    try:
        found = dns.message.from_wire(wire, ignore_trailing=True)
    except dns.message.Truncated:
        found = None
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return None
    if found is None or not found.flags & dns.flags.QR or found.question != sent.question:
        return None
    return found
