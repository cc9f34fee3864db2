# SPDX-License-Identifier: Apache-2.0
"""Addresses that the kernel removes by itself after some seconds unless they are put again.

They are deprecated (no preferred lifetime), so that the host takes none of them as the source of
its own connections, and have a mark of their own, by which the search for the underlay's address
passes them over. IPv4 ones have link scope, for older kernels, which keep no mark.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from hostnet.netlink.address_messages import (
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTO,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTM_DELADDR,
    RTM_NEWADDR,
    Address,
)
from hostnet.netlink.attributes import attr, attr_u8, attr_u32, pack_address
from hostnet.netlink.socket import NLM_F_CREATE, NLM_F_REPLACE, RequestBatch

FLOATING = 105
"""IFA_PROTO of floating addresses; unassigned, as 102 to 104 are (`hostnet.ownership`)."""
IFA_CACHEINFO = 6
_HEADER = struct.Struct("=BBBBi")  # struct ifaddrmsg
_CACHE = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid, two times of the kernel's


def put_floating(addresses: Iterable[Address], index: int, seconds: int) -> RequestBatch:
    """Put addresses on a device, for some seconds from now."""
    bodies = [_body(one, index, seconds) for one in addresses]
    return RequestBatch(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, bodies)


def delete_floating(addresses: Iterable[Address], index: int) -> RequestBatch:
    """Remove them."""
    return RequestBatch(RTM_DELADDR, 0, [_body(one, index, None) for one in addresses])


def _body(one: Address, index: int, seconds: int | None) -> bytes:
    text, _, length = one.address.partition("/")
    family, packed = pack_address(text)
    scope = RT_SCOPE_LINK if family == socket.AF_INET else RT_SCOPE_UNIVERSE
    parts = [
        _HEADER.pack(family, int(length), 0, scope, index),
        attr(IFA_LOCAL, packed),
        attr(IFA_ADDRESS, packed),
    ]
    if seconds is not None:
        parts += [
            attr_u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE),
            attr(IFA_CACHEINFO, _CACHE.pack(0, seconds, 0, 0)),
            attr_u8(IFA_PROTO, FLOATING),
        ]
    return b"".join(parts)
