"""Neighbours and FDB entries in rtnetlink: encode and parse, fast for thousands.

What `ip neigh` and `bridge fdb` do (rtnetlink(7), linux/neighbour.h). Both are
RTM_*NEIGH messages; an FDB entry is one of family AF_BRIDGE. All that we write is permanent:
nothing is ever resolved, learned or aged. An FDB entry of a VXLAN device needs NTF_SELF (the
device's own table, not its bridge's) and NUD_NOARP beside NUD_PERMANENT.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping

from hostnet.netlink.attributes import (
    ATTRIBUTE,
    attr,
    attr_u8,
    attr_u32,
    attributes,
    pack_address,
    unpack_address,
    unpack_mac,
)
from hostnet.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Bulk,
    Part,
    Request,
)
from hostnet.state import FdbEntry, Neighbour

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_PROBES, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 3, 4, 8, 12
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 0x02

_HEADER = struct.Struct("=BBHiHBB")  # struct ndmsg
_PUT = NLM_F_CREATE | NLM_F_REPLACE

FRONT = {socket.AF_INET: 32, socket.AF_INET6: 44}
"""Bytes of a dumped entry up to the end of its two addresses, by the family of the IP one."""


def put_neighbours(
    neighbours: Iterable[Neighbour], index: Mapping[str, int], protocol: int
) -> Bulk:
    """`ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent proto P` each.

    Raises KeyError for a link that `index` lacks, OSError or ValueError for a bad address.
    """
    bodies, unhex = [], bytes.fromhex
    heads: dict[tuple[str, int], bytes] = {}
    lladdr, tail = ATTRIBUTE.pack(10, NDA_LLADDR), b"\0\0" + attr_u8(NDA_PROTOCOL, protocol)
    for link, address, mac in neighbours:
        family, packed = pack_address(address)
        head = heads.get((link, family))
        if head is None:
            head = _HEADER.pack(family, 0, 0, index[link], NUD_PERMANENT, 0, 0)
            head += ATTRIBUTE.pack(4 + len(packed), NDA_DST)
            heads[link, family] = head
        bodies.append(head + packed + lladdr + unhex(mac.replace(":", "")) + tail)
    return Bulk(RTM_NEWNEIGH, _PUT, bodies)


def delete_neighbours(neighbours: Iterable[Neighbour], index: Mapping[str, int]) -> Bulk:
    """`ip neigh del ADDRESS dev LINK` each."""
    bodies = []
    for link, address, _ in neighbours:
        family, packed = pack_address(address)
        body = _HEADER.pack(family, 0, 0, index[link], 0, 0, 0) + attr(NDA_DST, packed)
        bodies.append(body)
    return Bulk(RTM_DELNEIGH, 0, bodies)


def put_fdb(entries: Iterable[FdbEntry], index: Mapping[str, int]) -> Bulk:
    """`bridge fdb replace MAC dev LINK dst REMOTE self permanent` each.

    Raises KeyError for a link that `index` lacks, OSError or ValueError for a bad address.
    """
    state = NUD_PERMANENT | NUD_NOARP
    return Bulk(RTM_NEWNEIGH, _PUT, _fdb(entries, index, state))


def delete_fdb(entries: Iterable[FdbEntry], index: Mapping[str, int]) -> Bulk:
    """`bridge fdb del MAC dev LINK dst REMOTE self` each."""
    return Bulk(RTM_DELNEIGH, 0, _fdb(entries, index, 0))


def _fdb(entries: Iterable[FdbEntry], index: Mapping[str, int], state: int) -> list[bytes]:
    bodies, unhex = [], bytes.fromhex
    heads: dict[str, bytes] = {}
    dst4 = b"\0\0" + ATTRIBUTE.pack(8, NDA_DST)
    dst6 = b"\0\0" + ATTRIBUTE.pack(20, NDA_DST)
    for link, mac, remote in entries:
        head = heads.get(link)
        if head is None:
            head = _HEADER.pack(socket.AF_BRIDGE, 0, 0, index[link], state, NTF_SELF, 0)
            head += ATTRIBUTE.pack(10, NDA_LLADDR)
            heads[link] = head
        family, packed = pack_address(remote)
        dst = dst4 if family == socket.AF_INET else dst6
        bodies.append(head + unhex(mac.replace(":", "")) + dst + packed)
    return bodies


def dump_neighbours(family: int, ifindex: int) -> Request:
    """Ask for the neighbours of a family (AF_INET, AF_INET6) on one device."""
    head = _HEADER.pack(family, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETNEIGH, 0, head + attr_u32(NDA_IFINDEX, ifindex))


def dump_fdb(ifindex: int) -> Request:
    """Ask for the forwarding entries of one device."""
    return Request(RTM_GETNEIGH, 0, _HEADER.pack(socket.AF_BRIDGE, 0, 0, ifindex, 0, 0, 0))


def parse_neighbour(part: Part, names: Mapping[int, str]) -> tuple[Neighbour | None, int]:
    """Read an RTM_NEWNEIGH message: a permanent neighbour and its device's index.

    None for any other entry.
    """
    data, begin, end = part
    family, _, _, index, state, _, _ = _HEADER.unpack_from(data, begin)
    if not state & NUD_PERMANENT or family not in FRONT:
        return None, index
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None, index
    address, mac = unpack_address(found[NDA_DST]), unpack_mac(found[NDA_LLADDR])
    return Neighbour(names.get(index, ""), address, mac), index


def parse_fdb(part: Part, names: Mapping[int, str]) -> tuple[FdbEntry | None, int]:
    """Read an RTM_NEWNEIGH message: a permanent forwarding entry and its device's index.

    None for any other entry, and for one without a remote.
    """
    data, begin, end = part
    family, _, _, index, state, _, _ = _HEADER.unpack_from(data, begin)
    if family != socket.AF_BRIDGE or not state & NUD_PERMANENT:
        return None, index
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None, index
    mac, remote = unpack_mac(found[NDA_LLADDR]), unpack_address(found[NDA_DST])
    return FdbEntry(names.get(index, ""), mac, remote), index
