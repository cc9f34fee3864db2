# SPDX-License-Identifier: Apache-2.0
"""Addresses in rtnetlink: encode and parse (rtnetlink(7), linux/if_addr.h).

IPv6 addresses are added without duplicate address detection (IFA_F_NODAD): we hand out
addresses by lease and address store, and a pod must be able to use its own at once.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hostnet.netlink.attributes import (
    attr,
    attr_u8,
    attr_u32,
    attributes,
    pack_address,
    u32,
    unpack_address,
)
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    RequestBatch,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_SECONDARY, IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x01, 0x02, 0x08, 0x40
IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x80, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
IFAPROT_KERNEL = frozenset({1, 2, 3})  # loopback, router advertisement, link-local: if_addr.h

_HEADER = struct.Struct("=BBBBi")  # struct ifaddrmsg


class Address(NamedTuple):
    """An address on a device, its prefix length included. `ip addr add ADDRESS dev LINK`."""

    link: str
    address: str
    """`10.5.76.1/24`: host bits kept."""

    @property
    def key(self) -> tuple[str, str]:
        """The kernel holds an address with its prefix length once per device."""
        return (self.link, self.address)


class ActualAddress(NamedTuple):
    """An address as the kernel describes it."""

    address: Address
    ifindex: int
    scope: int
    flags: int
    protocol: int
    """IFA_PROTO; 0 when unset or the kernel is older than 5.18."""
    peer: str | None = None
    """The other end's address on a point-to-point device."""


def put_addresses(
    addresses: Iterable[Address],
    index: Mapping[str, int],
    protocol: int,
    *,
    replace: bool = True,
    prefix_route: bool = True,
) -> RequestBatch:
    """`ip addr replace ADDRESS dev LINK nodad proto P` each.

    Without `prefix_route` the kernel makes no connected route. Raises KeyError for a link
    that `index` lacks.
    """
    extra = 0 if prefix_route else IFA_F_NOPREFIXROUTE
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    bodies = [_address(one, index[one.link], protocol, extra) for one in addresses]
    return RequestBatch(RTM_NEWADDR, flags, bodies)


def delete_addresses(addresses: Iterable[Address], index: Mapping[str, int]) -> RequestBatch:
    """`ip addr del ADDRESS dev LINK` each."""
    return RequestBatch(RTM_DELADDR, 0, [_address(one, index[one.link], 0, 0) for one in addresses])


def _address(one: Address, index: int, protocol: int, extra: int) -> bytes:
    text, _, length = one.address.partition("/")
    family, packed = pack_address(text)
    parts = [
        _HEADER.pack(family, int(length), 0, RT_SCOPE_UNIVERSE, index),
        attr(IFA_LOCAL, packed),
        attr(IFA_ADDRESS, packed),
    ]
    if family == socket.AF_INET6:
        extra |= IFA_F_NODAD
    if extra:
        parts.append(attr_u32(IFA_FLAGS, extra))
    if protocol:
        parts.append(attr_u8(IFA_PROTO, protocol))  # older kernels skip what they don't know
    return b"".join(parts)


def dump_addresses(family: int = 0, ifindex: int = 0) -> Request:
    """Ask for all addresses, of a family, of a device."""
    return Request(RTM_GETADDR, 0, _HEADER.pack(family, 0, 0, 0, ifindex))


def parse_address(part: Part, names: Mapping[int, str]) -> ActualAddress:
    """Read an RTM_NEWADDR message."""
    data, begin, end = part
    _, length, flags, scope, index = _HEADER.unpack_from(data, begin)
    found = attributes(data, begin + 8, end)
    far = found.get(IFA_ADDRESS, b"")
    local = found.get(IFA_LOCAL) or far
    text = unpack_address(local) if local else ""
    return ActualAddress(
        Address(names.get(index, ""), f"{text}/{length}"),
        index,
        scope,
        u32(found.get(IFA_FLAGS), flags),
        found.get(IFA_PROTO, b"\0")[0],
        unpack_address(far) if far != local else None,
    )


def parse_addresses(parts: Sequence[Part], names: Mapping[int, str]) -> list[ActualAddress]:
    """All addresses in a dump."""
    return [parse_address(part, names) for part in parts]
