"""What goes over the daemon's socket: one request and one answer per connection.

    request   "FMQ1", then three lengths (plugin, environment, stdin), then these three;
              with the first byte, as SCM_RIGHTS: the client's own network namespace, its
              mount namespace, and CNI_NETNS opened by the client, if it could be
    answer    "FMA1", exit status, length of stdout, stdout

Numbers are 32-bit in the machine's order: both ends are one machine. The environment is as
execve has it, `K=V` each ended by a zero byte. The client opens CNI_NETNS because the path
means what it means in *its* mount namespace, and because an open namespace can't be swapped
for another while we work. `client.c` and `client.py` are the other ends of this.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from cni.request import MAX_STDIN, Call

REQUEST = struct.Struct("=4sIII")
ANSWER = struct.Struct("=4sII")
REQUEST_MAGIC = b"FMQ1"
ANSWER_MAGIC = b"FMA1"
MAX_PLUGIN = 255  # bytes: a file name
MAX_ENVIRONMENT = 4 << 20  # bytes; execve allows a quarter of the stack limit, usually 2 MiB
MAX_FDS = 3
CHUNK = 1 << 16

RUN_IT_YOURSELF = 254
"""Exit status that tells the client: not for this daemon, use the program in your process."""


class WireError(Exception):
    """A client that doesn't speak this protocol, or went away in the middle."""


@dataclass(slots=True)
class Received:
    """A request and the descriptors that came with it."""

    call: Call
    fds: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        while self.fds:
            os.close(self.fds.pop())

    def shares(self, index: int, path: str) -> bool:
        """Whether descriptor `index` is the namespace at `path`; unknown counts as no."""
        if index >= len(self.fds):
            return False
        theirs, ours = os.fstat(self.fds[index]), Path(path).stat()
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

    def shares_network(self) -> bool:
        """Whether the client lives in the calling thread's network namespace."""
        return self.shares(0, "/proc/thread-self/ns/net")

    def shares_mounts(self) -> bool:
        """Whether paths mean the same to the client as to us."""
        return self.shares(1, "/proc/self/ns/mnt")


def receive(connection: socket.socket, timeout: float) -> Received:
    """Read a whole request within `timeout` seconds. Raises WireError."""
    deadline = time.monotonic() + timeout
    fds: list[int] = []
    try:
        data = _first(connection, timeout, fds)
        while len(data) < REQUEST.size:
            data += _more(connection, deadline, REQUEST.size - len(data))
        magic, plugin_size, environment_size, stdin_size = REQUEST.unpack_from(data)
        _check_header(magic, plugin_size, environment_size, stdin_size)
        whole = REQUEST.size + plugin_size + environment_size + stdin_size
        while len(data) < whole:
            data += _more(connection, deadline, min(whole - len(data), 1 << 20))
        begin = REQUEST.size + plugin_size
        end = begin + environment_size
        call = Call(
            os.fsdecode(bytes(data[REQUEST.size : begin])),
            _environment(bytes(data[begin:end])),
            bytes(data[end:whole]),
            fds[2] if len(fds) > 2 else None,
        )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return Received(call, fds)


def answer(connection: socket.socket, status: int, stdout: bytes) -> None:
    """Send the answer. Raises OSError when the client is gone."""
    connection.sendall(ANSWER.pack(ANSWER_MAGIC, status, len(stdout)) + stdout)


def _first(connection: socket.socket, timeout: float, fds: list[int]) -> bytearray:
    connection.settimeout(timeout)
    space = socket.CMSG_SPACE(MAX_FDS * 4)
    try:
        data, ancillary, _, _ = connection.recvmsg(CHUNK, space, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise WireError(f"no request came: {error}") from None
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
            fds += numbers
    if not data:
        raise WireError("the client closed without a request")
    return bytearray(data)


def _check_header(magic: bytes, plugin_size: int, environment_size: int, stdin_size: int) -> None:
    if magic != REQUEST_MAGIC:
        raise WireError("that is no request of a flatmesh CNI client")
    # one byte of stdin more than a config may have: the answer then says it is too large
    limits = ((plugin_size, MAX_PLUGIN), (environment_size, MAX_ENVIRONMENT))
    if any(size > limit for size, limit in (*limits, (stdin_size, MAX_STDIN + 1))):
        raise WireError("the request is too large")


def _more(connection: socket.socket, deadline: float, size: int) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise WireError("the request did not come in time")
    connection.settimeout(left)
    try:
        data = connection.recv(size)
    except OSError as error:
        raise WireError(f"the request broke off: {error}") from None
    if not data:
        raise WireError("the request broke off")
    return data


def _environment(block: bytes) -> dict[str, str]:
    environment = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            environment[os.fsdecode(name)] = os.fsdecode(value)
    return environment
