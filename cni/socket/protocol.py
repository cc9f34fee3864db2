# SPDX-License-Identifier: Apache-2.0
"""The protocol of the daemon's socket: one request and one answer per connection.

    request   "FMQ1", then three lengths (plugin, environment, stdin), then these three;
              with the first byte, as SCM_RIGHTS: the client's own network namespace, its
              mount namespace, and CNI_NETNS opened by the client, if it could be
    answer    "FMA1", exit status, length of stdout, stdout

Numbers have 32 bits in the machine's byte order: both ends are on one machine. The environment
is in the form of execve(2), `K=V` each ended by a zero byte. The client opens CNI_NETNS,
because the path is one of *its* mount namespace, and because nobody can replace a namespace
that is open by another one during the call. `client.c` and `client.py` are the clients.

Clients and daemons of different versions meet during an upgrade, so the bytes must stay as
they are; what would change them needs another magic.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from base.errors import FlatmeshError
from cni.config.call import CniCall
from cni.config.request import MAX_STDIN

REQUEST = struct.Struct("=4sIII")
ANSWER = struct.Struct("=4sII")
REQUEST_MAGIC = b"FMQ1"
ANSWER_MAGIC = b"FMA1"
MAX_PLUGIN = 255  # bytes: a file name
MAX_ENVIRONMENT = 4 << 20  # bytes; execve allows a quarter of the stack limit, usually 2 MiB
MAX_FDS = 3
CHUNK = 1 << 16

RUN_IT_YOURSELF = 254
"""An exit status that tells the client to answer the call in its own process."""


class CniProtocolError(FlatmeshError):
    """A client that does not follow this protocol, or closed the connection too early."""


@dataclass(slots=True)
class ReceivedCall:
    """A request and the descriptors that came with it."""

    call: CniCall
    fds: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        while self.fds:
            os.close(self.fds.pop())

    def is_namespace(self, index: int, path: str) -> bool:
        """Whether descriptor `index` is the namespace at `path`; False when it wasn't sent."""
        if index >= len(self.fds):
            return False
        theirs, ours = os.fstat(self.fds[index]), Path(path).stat()
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

    def is_in_our_network(self) -> bool:
        """Whether the client is in the calling thread's network namespace."""
        return self.is_namespace(0, "/proc/thread-self/ns/net")

    def has_our_mounts(self) -> bool:
        """Whether the client is in our mount namespace, so that paths mean the same files."""
        return self.is_namespace(1, "/proc/self/ns/mnt")


def receive_call(connection: socket.socket, timeout: float) -> ReceivedCall:
    """Read a whole request within `timeout` seconds. Raises CniProtocolError."""
    deadline = time.monotonic() + timeout
    fds: list[int] = []
    try:
        data = _receive_first(connection, timeout, fds)
        while len(data) < REQUEST.size:
            data += _receive_more(connection, deadline, REQUEST.size - len(data))
        magic, plugin_size, environment_size, stdin_size = REQUEST.unpack_from(data)
        _check_header(magic, plugin_size, environment_size, stdin_size)
        whole = REQUEST.size + plugin_size + environment_size + stdin_size
        while len(data) < whole:
            data += _receive_more(connection, deadline, min(whole - len(data), 1 << 20))
        begin = REQUEST.size + plugin_size
        end = begin + environment_size
        call = CniCall(
            os.fsdecode(bytes(data[REQUEST.size : begin])),
            _environment(bytes(data[begin:end])),
            bytes(data[end:whole]),
            fds[2] if len(fds) > 2 else None,
        )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return ReceivedCall(call, fds)


def send_answer(connection: socket.socket, status: int, stdout: bytes) -> None:
    """Send the answer. Raises OSError when the client has closed the connection."""
    connection.sendall(ANSWER.pack(ANSWER_MAGIC, status, len(stdout)) + stdout)


def _receive_first(connection: socket.socket, timeout: float, fds: list[int]) -> bytearray:
    connection.settimeout(timeout)
    space = socket.CMSG_SPACE(MAX_FDS * 4)
    try:
        data, ancillary, _, _ = connection.recvmsg(CHUNK, space, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise CniProtocolError(f"received no request: {error}") from None
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
            fds += numbers
    if not data:
        raise CniProtocolError("the client closed the connection without a request")
    return bytearray(data)


def _check_header(magic: bytes, plugin_size: int, environment_size: int, stdin_size: int) -> None:
    if magic != REQUEST_MAGIC:
        raise CniProtocolError("these bytes are no request of a flatmesh CNI client")
    # one byte of stdin more than a config may have: the answer then says it is too large
    limits = ((plugin_size, MAX_PLUGIN), (environment_size, MAX_ENVIRONMENT))
    if any(size > limit for size, limit in (*limits, (stdin_size, MAX_STDIN + 1))):
        raise CniProtocolError("the request is too large")


def _receive_more(connection: socket.socket, deadline: float, size: int) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise CniProtocolError("the request was not complete in time")
    connection.settimeout(left)
    try:
        data = connection.recv(size)
    except OSError as error:
        raise CniProtocolError(f"the request ended too early: {error}") from None
    if not data:
        raise CniProtocolError("the request ended too early")
    return data


def _environment(block: bytes) -> dict[str, str]:
    environment = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            environment[os.fsdecode(name)] = os.fsdecode(value)
    return environment
