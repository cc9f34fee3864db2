# SPDX-License-Identifier: Apache-2.0
"""The hosts that take part in the mesh, and the numbers by which packets name them.

All of it follows from a host's address, so nothing has to be published. Inside the ingress tunnel a
host has two hardware addresses:

    0a:5b:...   it receives under this one; as a source it marks a reply
    0a:5c:...   as a source it marks a client's packet, and names the host that the client asked
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostnet.address_mac import mac_after
from services.model import IPAddress, IPNetwork

RECEIVER, ORIGIN = "0a:5b", "0a:5c"
MARK_TAG, MARK_MASK = 0x60000000, 0xF0000000
"""Four bits of a packet's and a connection's mark: it goes back by the mesh."""
_LOW, _HIGH = 0x3FFF, 0x0FFF
"""Bits for a host's number; the two between, 0x4000 and 0x8000, are kube-proxy's."""


@dataclass(frozen=True, slots=True)
class Member:
    """One host."""

    address: IPAddress
    """The first PublicIP of its lease: who it is."""
    addresses: tuple[IPAddress, ...]
    """All of its PublicIPs."""
    subnets: tuple[IPNetwork, ...]
    """Of its pods."""
    remote: str
    """Where the ingress tunnel's packets are sent to."""

    @property
    def receiver(self) -> str:
        """The hardware address that it receives under."""
        return mac_after(self.address.packed, RECEIVER)

    @property
    def origin(self) -> str:
        """The source of clients' packets that it passes on."""
        return mac_after(self.address.packed, ORIGIN)


def marks(members: Iterable[Member]) -> dict[Member, int]:
    """The mark of each; two whose numbers are the same get different ones."""
    found: dict[Member, int] = {}
    taken: set[int] = set()
    for one in sorted(members, key=lambda each: (each.address.version, each.address.packed)):
        number = binascii.crc32(one.address.packed) & 0x3FFFFFF
        while (mark := MARK_TAG | (number >> 14 & _HIGH) << 16 | number & _LOW) in taken:
            number = number + 1 & 0x3FFFFFF
        taken.add(mark)
        found[one] = mark
    return found


@dataclass(slots=True)
class Places:
    """Which member an address is on."""

    by_address: dict[IPAddress, Member]
    by_subnet: dict[tuple[int, int], dict[int, Member]]
    """By family and length, then by the first bits."""

    @classmethod
    def of(cls, members: Iterable[Member]) -> Places:
        """Look them up by subnets and addresses."""
        found = cls({}, {})
        for one in members:
            found.by_address |= dict.fromkeys(one.addresses, one)
            for subnet in one.subnets:
                bits = int(subnet.network_address) >> subnet.max_prefixlen - subnet.prefixlen
                found.by_subnet.setdefault((subnet.version, subnet.prefixlen), {})[bits] = one
        return found

    def find(self, address: IPAddress) -> Member | None:
        """The member that has it, or whose pod does."""
        number = int(address)
        for (family, length), members in self.by_subnet.items():
            if family == address.version:
                one = members.get(number >> address.max_prefixlen - length)
                if one is not None:
                    return one
        return self.by_address.get(address)


def packed_mac(mac: str) -> bytes:
    """As in an nftables element."""
    return bytes.fromhex(mac.replace(":", ""))


def by_mark(members: Mapping[Member, int]) -> list[tuple[Member, int]]:
    """In a fixed order."""
    return sorted(members.items(), key=lambda pair: pair[1])
