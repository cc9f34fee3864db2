# SPDX-License-Identifier: Apache-2.0
"""Netlink: many requests in one system call, errors mapped back to the request.

Theory of operation
-------------------
Programming 5,000 peers means 20,000 requests. A request and an answer each through a
general library takes seconds; packed by `struct` into 64 KiB sends it takes a tenth of one
(docs: linux/netlink.h, RFC 3549). The kernel works a send off completely inside `sendmsg`,
in order, and goes on past errors. We ask it to answer only errors (no NLM_F_ACK), except on
the last request of a send: its answer is the barrier which shows that all was worked off.
Every request has its own sequence number, so an error is mapped to the operation it
belongs to and read with the kernel's own words (NETLINK_EXT_ACK).

A dump which the kernel says changed underneath (NLM_F_DUMP_INTR) is taken again: half a
table must never be taken for the whole one. Dumps are filtered by the kernel where it can
(NETLINK_GET_STRICT_CHK).

A socket belongs to the namespace it was opened in, and to one thread at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

from hostnet import netns as namespaces
from hostnet.netlink.attributes import U32, attributes
from hostnet.netlink.buffers import (
    HEADER,
    NLMSG_DONE,
    NLMSG_ERROR,
    Part,
    last_message,
    parts_of,
    walk,
)

# linux/netlink.h
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x8, 0x10
NLM_F_ROOT, NLM_F_MATCH = 0x100, 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200  # flags of an NLMSG_ERROR
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
SO_ATTACH_FILTER, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 26, 32, 33  # asm-generic/socket.h

SEND_SIZE = 60 * 1024  # bytes per sendmsg; the default socket buffer takes 208 KiB of skb
RECEIVE_OPTIONS = (SO_RCVBUFFORCE, socket.SO_RCVBUF)
RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes: room for an error to each request of a send
RECEIVE_SIZE = 64 * 1024  # bytes per recv; the kernel fills at most 32 KiB of a dump
DUMP_ATTEMPTS = 20

_ERRNO = struct.Struct("=i")


class Request(NamedTuple):
    """One request: a message type, NLM_F_* flags beyond REQUEST and ACK, and its payload."""

    type: int
    flags: int
    body: bytes


class RequestBatch(NamedTuple):
    """The same request on many objects: bodies are padded to four bytes."""

    type: int
    flags: int
    bodies: list[bytes]


class NetlinkError(OSError):
    """The kernel refused a request: `str()` is `OPERATION: reason (kernel's message)`."""

    def __init__(self, number: int, message: str = "", operation: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.message = message
        self.operation = operation

    @property
    def reason(self) -> str:
        """The error's name, and the kernel's message where it sent one."""
        return f"{self.strerror}: {self.message}" if self.message else str(self.strerror)

    def __str__(self) -> str:
        """One line."""
        return f"{self.operation}: {self.reason}" if self.operation else self.reason


class NetlinkSocket:
    """A netlink socket in one namespace. Close it, or use it as a context manager."""

    def __init__(
        self,
        netns: namespaces.NetnsRef | None = None,
        *,
        protocol: int = socket.NETLINK_ROUTE,
        groups: Iterable[int] = (),
    ) -> None:
        """Open it in `netns` (None: the caller's). Raises NetnsError, OSError."""
        self._socket = namespaces.run_in(netns, lambda: _open(protocol, groups))
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """Its descriptor, for a selector."""
        return self._socket.fileno()

    def join(self, group: int) -> None:
        """Receive a multicast group too. Raises OSError (EINVAL: the kernel has none such)."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def receive_buffer(self, size: int) -> None:
        """Let the kernel queue this many bytes for us, its own overhead included."""
        _set_buffer(self._socket, RECEIVE_OPTIONS, size)

    def send_buffer(self, size: int) -> None:
        """Let one send hold this many bytes; the kernel's own limit applies without privilege."""
        _set_buffer(self._socket, (SO_SNDBUFFORCE, socket.SO_SNDBUF), size)

    def attach_filter(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        """Drop messages in the kernel by a classic BPF program (struct sock_filter rows)."""
        code = b"".join(struct.pack("=HBBI", *row) for row in program)
        buffer = ctypes.create_string_buffer(code)
        fprog = struct.pack("HP", len(program), ctypes.addressof(buffer))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)

    def receive(self) -> bytes:
        """What has arrived, without waiting. Raises BlockingIOError, OSError (ENOBUFS)."""
        return self._socket.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)

    def execute(
        self, requests: Sequence[Request], describe: Callable[[int], str] = str
    ) -> dict[int, NetlinkError]:
        """Do all requests, in order and past errors; the errors by index of the request.

        `describe(index)` gives the operation's line, and is called for errors only.
        """
        errors: dict[int, NetlinkError] = {}
        batch: list[bytes] = []
        size = first = 0
        for index, (kind, flags, body) in enumerate(requests):
            padded = body + b"\0" * (-len(body) & 3)
            if size and size + 16 + len(padded) > SEND_SIZE:
                self._exchange(batch, first, errors)
                batch, size, first = [], 0, index
            sequence = self._sequence + 1 + index - first
            batch.append(HEADER.pack(16 + len(body), kind, flags | 1, sequence, 0) + padded)
            size += 16 + len(padded)
        if batch:
            self._exchange(batch, first, errors)
        for index, error in errors.items():
            error.operation = describe(index)
        return errors

    def execute_batch(self, batch: RequestBatch) -> dict[int, NetlinkError]:
        """Do the same request on many bodies; the errors by index of the body."""
        errors: dict[int, NetlinkError] = {}
        kind, flags, bodies = batch.type, batch.flags | 1, batch.bodies
        if not bodies:
            return errors
        pack = HEADER.pack
        each = max(1, SEND_SIZE // (16 + max(map(len, bodies))))
        for first in range(0, len(bodies), each):
            messages = [
                pack(16 + len(body), kind, flags, sequence, 0) + body
                for sequence, body in enumerate(bodies[first : first + each], self._sequence + 1)
            ]
            self._exchange(messages, first, errors)
        return errors

    def _exchange(self, batch: list[bytes], first: int, errors: dict[int, NetlinkError]) -> None:
        """Send complete messages, numbered on from `_sequence`; collect their errors."""
        length, kind, flags, last, _ = HEADER.unpack_from(batch[-1])
        batch[-1] = HEADER.pack(length, kind, flags | NLM_F_ACK, last, 0) + batch[-1][16:]
        start, self._sequence = self._sequence + 1, last
        self._send(b"".join(batch))
        for sequence, error in self._answers(last):
            if error.errno:
                errors[first + sequence - start] = error

    def transact(self, batch: Sequence[Request]) -> None:
        """Send a whole nfnetlink batch at once: its first and last messages are the marks.

        The kernel answers only refusals, and the message before the last mark, whose answer
        shows that it has decided; a batch that it refuses as a whole it answers on the first
        mark. Raises NetlinkError: the first refusal.
        """
        start = self._sequence + 1
        last = self._sequence = self._sequence + len(batch)
        barrier = last - 1
        self._send(
            b"".join(
                HEADER.pack(
                    16 + len(body), kind, flags | 1 | NLM_F_ACK * (number == barrier), number, 0
                )
                + body
                + b"\0" * (-len(body) & 3)
                for number, (kind, flags, body) in enumerate(batch, start)
            )
        )
        refusal: NetlinkError | None = None
        decided = False
        while not decided:
            data = self._receive()
            for kind, flags, number, begin, end in walk(data):
                if kind != NLMSG_ERROR or not start <= number <= last:
                    continue
                error = _error(data, begin, end, flags)
                if error.errno and refusal is None:
                    refusal = error
                decided = decided or number in (start, barrier)
        if refusal is not None:
            raise refusal

    def request(self, request: Request, operation: str = "") -> None:
        """Do one request. Raises NetlinkError."""
        errors = self.execute((request,), lambda _: operation)
        if errors:
            raise errors[0]

    def get(self, request: Request, operation: str = "") -> Part:
        """Ask for one object. Raises NetlinkError (ENODEV and the like: it isn't there)."""
        self._sequence += 1
        kind, wanted, body = request
        self._send(HEADER.pack(16 + len(body), kind, wanted | 1, self._sequence, 0) + body)
        while True:
            data = self._receive()
            for found, flags, sequence, begin, end in walk(data):
                if sequence != self._sequence:
                    continue
                if found == NLMSG_ERROR:
                    error = _error(data, begin, end, flags)
                    error.operation = operation
                    raise error
                return (data, begin, end)

    def dump(self, kind: int, body: bytes, operation: str = "dump") -> list[Part]:
        """All objects of a kind that the filter in `body` lets through.

        Raises NetlinkError; EINTR when the table never stood still long enough.
        """
        return [part for data in self.dump_raw(kind, body, operation) for part in parts_of(data)]

    def dump_raw(self, kind: int, body: bytes, operation: str = "dump") -> list[bytes]:
        """The same, as the buffers that the kernel filled, NLMSG_DONE at the end included."""
        for _ in range(DUMP_ATTEMPTS):
            try:
                buffers = self._dump(kind, body, operation)
            except NetlinkError as error:
                if error.errno != errno.EBUSY:
                    raise
                self._finish()
                continue
            if buffers is not None:
                return buffers
        raise NetlinkError(errno.EINTR, "the table kept changing during the dump", operation)

    def dump_what_there_is(self, request: Request, operation: str) -> list[bytes]:
        """`dump_raw`, which finds nothing where there can be nothing of the kind.

        ENODEV: the filter's device has gone; EOPNOTSUPP, EAFNOSUPPORT: a kernel without IPv6.
        """
        try:
            return self.dump_raw(request.type, request.body, operation)
        except NetlinkError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                return []
            raise

    def _dump(self, kind: int, body: bytes, operation: str) -> list[bytes] | None:
        self._sequence += 1
        self._send(HEADER.pack(16 + len(body), kind, NLM_F_DUMP | 1, self._sequence, 0) + body)
        buffers: list[bytes] = []
        done = interrupted = False
        while not done:
            data = self._receive()
            head = HEADER.unpack_from(data)
            if head[3] != self._sequence:
                continue  # an answer to something given up before
            # The kernel looks for changes as it starts a buffer, and before NLMSG_DONE
            # (nl_dump_check_consistent), and flags the next message it writes.
            last = last_message(data) if head[1] not in (NLMSG_DONE, NLMSG_ERROR) else 0
            length, found, flags, _, _ = HEADER.unpack_from(data, last)
            if found in (NLMSG_DONE, NLMSG_ERROR):
                error = _error(data, last + 16, last + length, flags)
                if error.errno:
                    error.operation = operation
                    raise error
                done = True
            interrupted = interrupted or bool((flags | head[2]) & NLM_F_DUMP_INTR)
            buffers.append(data)
        return None if interrupted else buffers

    def _finish(self) -> None:
        """Read a dump to its end that an exception left half read: it blocks the next one."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.receive()

    def _answers(self, last: int) -> Iterable[tuple[int, NetlinkError]]:
        answers = []
        while True:
            data = self._receive()
            for kind, flags, sequence, begin, end in walk(data):
                if kind == NLMSG_ERROR:
                    answers.append((sequence, _error(data, begin, end, flags)))
                    if sequence == last:
                        return answers

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    def _receive(self) -> bytes:
        return self._socket.recv(RECEIVE_SIZE)


def _open(protocol: int, groups: Iterable[int]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        _set_buffer(sock, RECEIVE_OPTIONS, RECEIVE_BUFFER)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                sock.setsockopt(SOL_NETLINK, option, 1)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:
                    raise  # before Linux 4.20: dumps come unfiltered, readers filter as well
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_buffer(sock: socket.socket, options: tuple[int, int], size: int) -> None:
    """Set a buffer's size by the option that needs privilege, else by the other."""
    for option in options:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except PermissionError:
            continue  # in a user namespace: take what net.core.[rw]mem_max allows
        return


def _error(data: bytes, begin: int, end: int, flags: int) -> NetlinkError:
    """Read struct nlmsgerr (or the int of NLMSG_DONE) and the extended ACK behind it."""
    number = -_ERRNO.unpack_from(data, begin)[0] if end - begin >= 4 else 0
    text = ""
    if number and flags & NLM_F_ACK_TLVS and end - begin >= 20:
        after = begin + 20
        if not flags & NLM_F_CAPPED:
            (length,) = U32.unpack_from(data, begin + 4)
            after = begin + 4 + ((length + 3) & ~3) if begin + 4 + length <= end else after
        message = attributes(data, after, end).get(NLMSGERR_ATTR_MSG)
        text = message.rstrip(b"\0").decode(errors="replace") if message else ""
    return NetlinkError(number, text)
