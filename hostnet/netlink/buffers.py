# SPDX-License-Identifier: Apache-2.0
"""Netlink messages in the buffers that a socket received (linux/netlink.h: struct nlmsghdr)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hostnet.netlink.attributes import U32

NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port

Part = tuple[bytes, int, int]
"""One message of a dump: buffer, offset of its payload, offset of its end."""


def parts_of(data: bytes) -> list[Part]:
    """The messages in a buffer of a dump, NLMSG_DONE left out."""
    parts = []
    position, size, unpack = 0, len(data), HEADER.unpack_from
    while position < size:
        length, kind, _, _, _ = unpack(data, position)
        if kind != NLMSG_DONE:
            parts.append((data, position + 16, position + length))
        position += (length + 3) & ~3
    return parts


def last_message(data: bytes) -> int:
    """Offset of the last message: guessed as NLMSG_DONE, found by walking where that fails."""
    guess = len(data) - 20  # struct nlmsghdr and an int
    if guess > 0 and HEADER.unpack_from(data, guess)[:2] == (20, NLMSG_DONE):
        return guess
    position = last = 0
    length: int = U32.unpack_from(data)[0]
    if len(data) % length == 0 and U32.unpack_from(data, len(data) - length)[0] == length:
        return len(data) - length
    while position < len(data):
        last = position
        position += (U32.unpack_from(data, position)[0] + 3) & ~3
    return last


def walk(data: bytes) -> Iterable[tuple[int, int, int, int, int]]:
    """Walk a buffer: type, flags, sequence, payload offset, end offset."""
    position = 0
    while position + 16 <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, position)
        yield kind, flags, sequence, position + 16, position + length
        position += (length + 3) & ~3


def messages(data: bytes) -> list[tuple[int, int, Part]]:
    """What a multicast socket received: type, sender's port, and the message each."""
    found = []
    position = 0
    while position + 16 <= len(data):
        length, kind, _, _, port = HEADER.unpack_from(data, position)
        found.append((kind, port, (data, position + 16, position + length)))
        position += (length + 3) & ~3
    return found
