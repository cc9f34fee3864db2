# SPDX-License-Identifier: Apache-2.0
"""Data types of nftables sets and maps: how a value is laid out in a key, and how it is printed.

The numbers are libnftables' own (nftables, include/datatype.h, enum datatypes); the kernel only
stores them, and `nft list` reads them to print elements. A concatenation (`ipv4_addr .
inet_service`) pads each field to four bytes, and its number is the fields' numbers, six bits each
(nftables, src/datatype.c: concat_type_alloc).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

INTEGER = 4  # the type of all raw payload (enum datatypes: TYPE_INTEGER); it has no size of its own
TYPE_BITS = 6  # bits of one field's number within a concatenation's (enum: TYPE_BITS)


class DataType(NamedTuple):
    """One data type of nft(8)."""

    number: int
    size: int
    """Bytes of a value."""
    text: Callable[[bytes], str]
    """A value as `nft list` prints it with `-n`."""
    expression: str = ""
    """What nft(8)'s `typeof` takes for it in a set that has one of the types without a name."""


def _number(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _host_number(value: bytes) -> str:
    """Marks are kept in the host's byte order: nothing on the wire holds one."""
    return f"0x{int.from_bytes(value, sys.byteorder):08x}"


def _hexadecimal(value: bytes) -> str:
    return f"0x{value.hex()}"


def _interface(value: bytes) -> str:
    return '"' + value.rstrip(b"\0").decode(errors="replace") + '"'


SLOT = "numgen random mod 65536"
"""Any expression of four bytes in the host's order. `jhash` was tried: nft 1.0.6 crashes when it
lists a set that was declared with it."""
TYPES = {
    "ipv4_addr": DataType(7, 4, socket.inet_ntoa, "ip saddr"),
    "ipv6_addr": DataType(
        8, 16, lambda value: socket.inet_ntop(socket.AF_INET6, value), "ip6 saddr"
    ),
    "ether_addr": DataType(9, 6, lambda value: value.hex(":"), "ether daddr"),
    "inet_proto": DataType(12, 1, _number),
    "inet_service": DataType(13, 2, _number),
    # The same; nft(8) wants to know of which protocol, where a set is declared by `typeof`.
    "tcp_service": DataType(13, 2, _number, "tcp dport"),
    "udp_service": DataType(13, 2, _number, "udp dport"),
    "sctp_service": DataType(13, 2, _number, "sctp dport"),
    "mark": DataType(19, 4, _host_number),
    "ifname": DataType(41, 16, _interface),
    # A hash that was cut to a number of slots, in the host's byte order: the kernel computes it.
    "slot": DataType(4, 4, lambda value: str(int.from_bytes(value, sys.byteorder)), SLOT),
    "nd_target": DataType(4, 16, _hexadecimal, "@th,64,128"),
    # An inner header's source address, where VXLAN has it: after 8 bytes of UDP, 8 of VXLAN, 14 of
    # Ethernet, and 12 of IPv4 or 8 of IPv6 (RFC 7348). For nft these are integers.
    "vxlan_ipv4_saddr": DataType(4, 4, _hexadecimal, "@th,336,32"),
    "vxlan_ipv6_saddr": DataType(4, 16, _hexadecimal, "@th,304,128"),
}
"""By the name that nft(8) uses in a set's `type`; those that it has no name for are ours."""


HOST_ORDERED = frozenset({"mark", "ifname"})
"""The types whose values are in the host's byte order; all others are in network order."""


def byte_order(types: Sequence[str]) -> int:
    """nft(8)'s number of a key's byte order: 1 the host's, 2 network order, 0 for no type.

    A concatenation has none of its own; nft takes network order for it (enum byteorder).
    """
    if not types:
        return 0
    return 1 if len(types) == 1 and types[0] in HOST_ORDERED else 2


def padded_size(size: int) -> int:
    """Bytes that a field takes in a register: a multiple of four."""
    return (size + 3) & ~3


def size_of(types: Sequence[str]) -> int:
    """Bytes of a key or of a map's data; a single value is not padded. Raises KeyError."""
    if len(types) == 1:
        return TYPES[types[0]].size
    return sum(padded_size(TYPES[name].size) for name in types)


def number_of(types: Sequence[str]) -> int:
    """The number under which `nft list` finds the type. Raises KeyError."""
    number = 0
    for name in types:
        number = number << TYPE_BITS | TYPES[name].number
    return number


def names_of(number: int, size: int) -> tuple[str, ...]:
    """The types' names from a key's number and size in bytes; empty where one is unknown.

    Integers of all sizes have one number: the size that the other fields leave tells which it is.
    """
    numbers: list[int] = []
    while number:
        numbers.insert(0, number & ((1 << TYPE_BITS) - 1))
        number >>= TYPE_BITS
    known = {t.number: name for name, t in reversed(TYPES.items())}
    if not all(one in known for one in numbers):
        return ()
    names = [known[one] for one in numbers]
    for place, one in enumerate(numbers):
        others = sum(padded_size(TYPES[n].size) for n in names[:place] + names[place + 1 :])
        fits = [n for n, t in TYPES.items() if t.number == one and t.size == size - others]
        names[place] = fits[0] if fits else names[place]
    return tuple(names)


def declaration(types: Sequence[str], data: Sequence[str] = ()) -> str:
    """What stands in a set's or map's declaration: `type ipv4_addr . inet_service`."""
    if any(TYPES[name].number == INTEGER for name in types):
        words = " . ".join(TYPES[name].expression for name in types)
        values = " . ".join(TYPES[name].expression for name in data)
        return f"typeof {words}" + (f" : {values}" if data else "")
    return "type " + " . ".join(types) + (" : " + " . ".join(data) if data else "")


def pack(types: Sequence[str], *values: bytes) -> bytes:
    """A key or data from its fields' values, each in the layout of its type.

    Raises ValueError for a value of the wrong size, KeyError for an unknown type.
    """
    if len(types) != len(values):
        raise ValueError(f"{' . '.join(types)} has {len(types)} fields, {len(values)} are given")
    for name, value in zip(types, values, strict=True):
        if len(value) != TYPES[name].size:
            raise ValueError(f"a value of {name} has {TYPES[name].size} bytes, not {len(value)}")
    if len(values) == 1:
        return values[0]
    return b"".join(value.ljust(padded_size(len(value)), b"\0") for value in values)


def text_of(types: Sequence[str], value: bytes) -> str:
    """A key or data as nft(8) writes it: fields joined by ` . `."""
    words, position = [], 0
    for name in types:
        size = TYPES[name].size
        words.append(TYPES[name].text(value[position : position + size]))
        position += padded_size(size)
    return " . ".join(words)
