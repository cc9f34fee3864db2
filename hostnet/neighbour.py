"""Neighbours and FDB entries in rtnetlink: encode and parse, fast for thousands.

What `ip neigh` and `bridge fdb` do (rtnetlink(7), linux/neighbour.h). Both are
RTM_*NEIGH messages; an FDB entry is one of family AF_BRIDGE. All that we write is permanent:
nothing is ever resolved, learned or aged. An FDB entry of a VXLAN device needs NTF_SELF (the
device's own table, not its bridge's) and NUD_NOARP beside NUD_PERMANENT.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence

from hostnet.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Part,
    Request,
    attr,
    attr_u8,
    attr_u32,
    attributes,
    pack_address,
    unpack_address,
    unpack_mac,
)
from hostnet.route import Shape
from hostnet.state import FdbEntry, Neighbour

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_PROBES, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 3, 4, 8, 12
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 0x02

_HEADER = struct.Struct("=BBHiHBB")  # struct ndmsg
_NEIGHBOUR4 = struct.Struct("=BBHiHBB HH4s HH6sH HHB3x")
_FDB4 = struct.Struct("=BBHiHBB HH6sH HH4s")
_PUT = NLM_F_CREATE | NLM_F_REPLACE

_DUMPED_NEIGHBOUR4 = Shape(
    "BBHiHBB",
    (NDA_DST, "4s"),
    (NDA_LLADDR, "6s"),
    (NDA_PROBES, "I"),
    (NDA_CACHEINFO, "16s"),
    (NDA_PROTOCOL, "B"),
)
_DUMPED_FDB4 = Shape("BBHiHBB", (NDA_LLADDR, "6s"), (NDA_DST, "4s"), (NDA_CACHEINFO, "16s"))


def put_neighbours(
    neighbours: Iterable[Neighbour], index: Mapping[str, int], protocol: int
) -> list[Request]:
    """`ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent proto P` each.

    Raises KeyError for a link that `index` lacks.
    """
    requests, pack, unhex = [], _NEIGHBOUR4.pack, bytes.fromhex
    for link, address, mac in neighbours:
        lladdr = unhex(mac.replace(":", ""))
        if ":" in address:
            body = _HEADER.pack(socket.AF_INET6, 0, 0, index[link], NUD_PERMANENT, 0, 0)
            body += attr(NDA_DST, pack_address(address)[1]) + attr(NDA_LLADDR, lladdr)
            body += attr_u8(NDA_PROTOCOL, protocol)
        else:
            body = pack(
                *(socket.AF_INET, 0, 0, index[link], NUD_PERMANENT, 0, 0),
                *(8, NDA_DST, socket.inet_aton(address), 10, NDA_LLADDR, lladdr, 0),
                *(5, NDA_PROTOCOL, protocol),
            )
        requests.append(Request(RTM_NEWNEIGH, _PUT, body))
    return requests


def delete_neighbours(neighbours: Iterable[Neighbour], index: Mapping[str, int]) -> list[Request]:
    """`ip neigh del ADDRESS dev LINK` each."""
    requests = []
    for link, address, _ in neighbours:
        family, packed = pack_address(address)
        body = _HEADER.pack(family, 0, 0, index[link], 0, 0, 0) + attr(NDA_DST, packed)
        requests.append(Request(RTM_DELNEIGH, 0, body))
    return requests


def put_fdb(entries: Iterable[FdbEntry], index: Mapping[str, int]) -> list[Request]:
    """`bridge fdb replace MAC dev LINK dst REMOTE self permanent` each.

    Raises KeyError for a link that `index` lacks.
    """
    requests, pack, unhex = [], _FDB4.pack, bytes.fromhex
    state = NUD_PERMANENT | NUD_NOARP
    for link, mac, remote in entries:
        lladdr = unhex(mac.replace(":", ""))
        if ":" in remote:
            body = _HEADER.pack(socket.AF_BRIDGE, 0, 0, index[link], state, NTF_SELF, 0)
            body += attr(NDA_LLADDR, lladdr) + attr(NDA_DST, pack_address(remote)[1])
        else:
            body = pack(
                *(socket.AF_BRIDGE, 0, 0, index[link], state, NTF_SELF, 0),
                *(10, NDA_LLADDR, lladdr, 0, 8, NDA_DST, socket.inet_aton(remote)),
            )
        requests.append(Request(RTM_NEWNEIGH, _PUT, body))
    return requests


def delete_fdb(entries: Iterable[FdbEntry], index: Mapping[str, int]) -> list[Request]:
    """`bridge fdb del MAC dev LINK dst REMOTE self` each."""
    requests = []
    for link, mac, remote in entries:
        body = _HEADER.pack(socket.AF_BRIDGE, 0, 0, index[link], 0, NTF_SELF, 0)
        body += attr(NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        if remote:
            body += attr(NDA_DST, pack_address(remote)[1])
        requests.append(Request(RTM_DELNEIGH, 0, body))
    return requests


def dump_neighbours(family: int, ifindex: int) -> Request:
    """Ask for the neighbours of a family (AF_INET, AF_INET6) on one device."""
    head = _HEADER.pack(family, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETNEIGH, 0, head + attr_u32(NDA_IFINDEX, ifindex))


def dump_fdb(ifindex: int) -> Request:
    """Ask for the forwarding entries of one device."""
    return Request(RTM_GETNEIGH, 0, _HEADER.pack(socket.AF_BRIDGE, 0, 0, ifindex, 0, 0, 0))


def parse_neighbours(parts: Sequence[Part], names: Mapping[int, str]) -> list[Neighbour]:
    """The permanent neighbours in a dump."""
    neighbours: list[Neighbour] = []
    append, ntoa, shape = neighbours.append, socket.inet_ntoa, _DUMPED_NEIGHBOUR4
    for part in parts:
        data, begin, end = part
        if end - begin == shape.size:
            values = shape.unpack(data, begin)
            if values[shape.headers] == shape.expected:
                if values[4] & NUD_PERMANENT:
                    link = names.get(values[3], "")
                    append(Neighbour(link, ntoa(values[8]), values[10].hex(":")))
                continue
        one = parse_neighbour(part, names)
        if one is not None:
            append(one)
    return neighbours


def parse_neighbour(part: Part, names: Mapping[int, str]) -> Neighbour | None:
    """One permanent neighbour, from a dump or notification; None for any other."""
    data, begin, end = part
    family, _, _, index, state, _, _ = _HEADER.unpack_from(data, begin)
    if not state & NUD_PERMANENT or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None
    address, mac = unpack_address(found[NDA_DST]), unpack_mac(found[NDA_LLADDR])
    return Neighbour(names.get(index, ""), address, mac)


def parse_fdb(parts: Sequence[Part], names: Mapping[int, str], ifindex: int) -> list[FdbEntry]:
    """The permanent forwarding entries of a VXLAN device in a dump."""
    entries: list[FdbEntry] = []
    append, ntoa, shape = entries.append, socket.inet_ntoa, _DUMPED_FDB4
    for part in parts:
        data, begin, end = part
        if end - begin == shape.size:
            values = shape.unpack(data, begin)
            if values[shape.headers] == shape.expected:
                if values[4] & NUD_PERMANENT and values[3] == ifindex:
                    append(FdbEntry(names[ifindex], values[8].hex(":"), ntoa(values[10])))
                continue
        one = parse_fdb_entry(part, names)
        if one is not None and one.link == names[ifindex]:
            append(one)
    return entries


def parse_fdb_entry(part: Part, names: Mapping[int, str]) -> FdbEntry | None:
    """One permanent entry with a remote, from a dump or notification; None for any other."""
    data, begin, end = part
    family, _, _, index, state, _, _ = _HEADER.unpack_from(data, begin)
    if family != socket.AF_BRIDGE or not state & NUD_PERMANENT:
        return None
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None
    mac, remote = unpack_mac(found[NDA_LLADDR]), unpack_address(found[NDA_DST])
    return FdbEntry(names.get(index, ""), mac, remote)
