# SPDX-License-Identifier: Apache-2.0
"""Flags and VLANs of bridge ports in rtnetlink (linux/if_link.h, linux/if_bridge.h).

Messages of the family AF_BRIDGE have both; others have the flags.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from hostnet.netlink.attributes import ATTRIBUTE, NLA_TYPE_MASK, attr_nest, attr_u8, attr_u32
from hostnet.netlink.attributes import attributes as attributes_of
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import Request

RTM_GETLINK, RTM_SETLINK = 18, 19
IFLA_PROTINFO, IFLA_AF_SPEC, IFLA_EXT_MASK = 12, 26, 29
RTEXT_FILTER_BRVLAN_COMPRESSED = 1 << 2
IFLA_BRIDGE_VLAN_INFO = 2
PVID, UNTAGGED = 1 << 1, 1 << 2  # BRIDGE_VLAN_INFO_*
_RANGE_BEGIN, _RANGE_END = 1 << 3, 1 << 4
_HEADER = struct.Struct("=BBHiII")  # struct ifinfomsg

STATE, FORWARDING = 1, 3  # IFLA_BRPORT_STATE, BR_STATE_FORWARDING
HAIRPIN, ISOLATED = 4, 33  # IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED
NAMES = {
    STATE: "state",
    HAIRPIN: "hairpin",
    5: "guard",
    6: "root_block",
    8: "learning",
    9: "flood",
    10: "proxy_arp",
    27: "mcast_flood",
    29: "vlan_tunnel",
    30: "bcast_flood",
    32: "neigh_suppress",
    ISOLATED: "isolated",
    39: "locked",
    40: "mab",
}
"""As bridge(8) calls them, by IFLA_BRPORT_*."""
_ON_BY_DEFAULT = {8, 9, 27, 30}
DEFAULTS = {
    kind: int(kind in _ON_BY_DEFAULT) for kind in NAMES if kind not in (STATE, HAIRPIN, ISOLATED)
}
"""What a new port has, of what cuts a pod off or lets it do more when it is set otherwise."""


def set_port_flags(index: int, flags: Mapping[int, int]) -> Request:
    """`bridge link set dev DEV learning on ...`; the device is in a bridge already."""
    data = b"".join(attr_u8(kind, value) for kind, value in flags.items())
    header = _HEADER.pack(socket.AF_BRIDGE, 0, 0, index, 0, 0)
    return Request(RTM_SETLINK, 0, header + attr_nest(IFLA_PROTINFO, data))


def dump_ports() -> Request:
    """Ask for all ports of bridges, and the bridges themselves, with their VLANs."""
    header = _HEADER.pack(socket.AF_BRIDGE, 0, 0, 0, 0, 0)
    return Request(RTM_GETLINK, 0, header + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED))


def index_of(part: Part) -> int:
    """The interface that a message on a link is about."""
    index: int = _HEADER.unpack_from(part[0], part[1])[3]
    return index


def vlan_bytes(part: Part) -> bytes:
    """What an AF_BRIDGE message says on VLANs, to be compared with another; empty: nothing."""
    data, begin, end = part
    return attributes_of(data, begin + _HEADER.size, end).get(IFLA_AF_SPEC, b"")


def parse_vlans(spec: bytes) -> dict[int, int]:
    """VLANs with their flags (PVID, UNTAGGED), from `vlan_bytes`."""
    found: dict[int, int] = {}
    position, first = 0, 0
    while position + ATTRIBUTE.size <= len(spec):
        length, kind = ATTRIBUTE.unpack_from(spec, position)
        if length < ATTRIBUTE.size:
            break
        if kind & NLA_TYPE_MASK == IFLA_BRIDGE_VLAN_INFO and length >= 8:
            flags, vid = struct.unpack_from("=HH", spec, position + ATTRIBUTE.size)
            if flags & _RANGE_BEGIN:
                first = vid
            else:
                for each in range(first if flags & _RANGE_END else vid, vid + 1):
                    found[each] = flags & (PVID | UNTAGGED)
        position += (length + 3) & ~3
    return found
