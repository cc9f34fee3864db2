# SPDX-License-Identifier: Apache-2.0
"""Netlink attributes: pack and unpack (netlink(7), linux/netlink.h: struct nlattr).

An attribute is a length, a type and a payload, padded to four bytes. Numbers are in the
host's byte order, addresses in network order, text ends in a zero byte.
"""

from __future__ import annotations

import socket
import struct

NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
U32 = struct.Struct("=I")


def attributes(data: bytes, position: int, end: int) -> dict[int, bytes]:
    """The attributes between two offsets, by type; of repeated ones the last."""
    found = {}
    unpack = ATTRIBUTE.unpack_from
    while position + 4 <= end:
        length, kind = unpack(data, position)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def nested(data: bytes) -> dict[int, bytes]:
    """The attributes inside a nested attribute's payload."""
    return attributes(data, 0, len(data))


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) & 3)


def attr_u8(kind: int, value: int) -> bytes:
    """One attribute of one byte."""
    return attr(kind, bytes((value,)))


def attr_u16(kind: int, value: int) -> bytes:
    """One attribute of two bytes, host order."""
    return attr(kind, struct.pack("=H", value))


def attr_u32(kind: int, value: int) -> bytes:
    """One attribute of four bytes, host order."""
    return attr(kind, U32.pack(value))


def attr_text(kind: int, value: str) -> bytes:
    """One attribute of zero-terminated text."""
    return attr(kind, value.encode() + b"\0")


def attr_nest(kind: int, *inner: bytes) -> bytes:
    """One attribute that holds others."""
    return attr(kind | NLA_F_NESTED, b"".join(inner))


def u32(payload: bytes | None, default: int = 0) -> int:
    """The value of a four-byte attribute."""
    return int(U32.unpack_from(payload)[0]) if payload else default


def text_of(payload: bytes | None) -> str:
    """The value of a text attribute; empty when absent."""
    return payload.rstrip(b"\0").decode(errors="replace") if payload else ""


def pack_address(address: str) -> tuple[int, bytes]:
    """Family and bytes of an IPv4 or IPv6 address in text. Raises OSError for a bad one."""
    if ":" in address:
        return socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address)
    return socket.AF_INET, socket.inet_pton(socket.AF_INET, address)


def unpack_address(payload: bytes) -> str:
    """Text of an address's bytes."""
    if len(payload) == 4:
        return socket.inet_ntoa(payload)
    return socket.inet_ntop(socket.AF_INET6, payload)


def pack_mac(mac: str) -> bytes:
    """Six bytes of `c6:d2:32:6f:8f:44`. Raises ValueError."""
    return bytes.fromhex(mac.replace(":", ""))


def unpack_mac(payload: bytes) -> str:
    """Lower-case colon hex."""
    return payload.hex(":")
