# SPDX-License-Identifier: Apache-2.0
"""IP addresses and networks as integers: parse, print, and test whether one contains another.

Used instead of `ipaddress`, whose import takes 5 ms of every call that is answered without a
daemon.
"""

from __future__ import annotations

import functools
import socket
from typing import NamedTuple

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
"""The kernel's number of each family."""


class Cidr(NamedTuple):
    """An address with its prefix length, as in `10.5.1.2/24`; host bits are kept."""

    family: int
    """4 or 6."""
    value: int
    """The address as an integer."""
    length: int
    """Prefix length in bits."""

    @property
    def address(self) -> str:
        """The address alone, in canonical text."""
        return to_text(self.family, self.value)

    @property
    def network(self) -> Cidr:
        """The same prefix with all host bits zero."""
        host_bits = bits(self.family) - self.length
        return Cidr(self.family, self.value >> host_bits << host_bits, self.length)

    @property
    def is_network(self) -> bool:
        """Whether the host bits are zero."""
        return self == self.network

    @property
    def last(self) -> int:
        """The highest address of the network, as an integer."""
        return self.network.value | ((1 << (bits(self.family) - self.length)) - 1)

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"

    def contains(self, other: Cidr) -> bool:
        """Whether the other network is this one or a part of it."""
        if self.family != other.family or other.length < self.length:
            return False
        host_bits = bits(self.family) - self.length
        return self.value >> host_bits == other.value >> host_bits

    def overlaps(self, other: Cidr) -> bool:
        """Whether the two networks share an address."""
        return self.contains(other) or other.contains(self)


def bits(family: int) -> int:
    """The length of an address of a family (4 or 6), in bits."""
    return 32 if family == 4 else 128


def to_text(family: int, value: int) -> str:
    """The canonical text of an address of a family (4 or 6)."""
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


def parse_address(text: str) -> tuple[int, int]:
    """Read an address into its family (4 or 6) and integer. Raises ValueError with one line."""
    for family, constant in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        try:
            packed = socket.inet_pton(constant, text)
        except (OSError, ValueError, UnicodeError):
            continue
        return family, int.from_bytes(packed, "big")
    raise ValueError(f"{text!r} is not an IP address")


@functools.lru_cache(maxsize=4096)
def parse_cidr(text: str, *, default_length: bool = False) -> Cidr:
    """Read `10.5.1.2/24` or `fd00::1/64`. Raises ValueError with one line.

    With `default_length` an address without a prefix length gets /32 or /128.
    """
    address, slash, length = text.partition("/")
    if not slash and not default_length:
        raise ValueError(f"{text!r} is not ADDRESS/PREFIXLEN")
    try:
        family, value = parse_address(address)
    except ValueError:
        raise ValueError(f"{text!r} is not ADDRESS/PREFIXLEN") from None
    if not slash:
        return Cidr(family, value, bits(family))
    if not (length.isascii() and length.isdigit()) or int(length) > bits(family):
        raise ValueError(f"{text!r}: the prefix length must be 0 to {bits(family)}")
    return Cidr(family, value, int(length))


def default_network(family: int) -> Cidr:
    """`0.0.0.0/0` or `::/0`."""
    return Cidr(family, 0, 0)
