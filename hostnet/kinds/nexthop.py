# SPDX-License-Identifier: Apache-2.0
"""Nexthop objects in rtnetlink (linux/nexthop.h; `ip nexthop`, Linux 5.3 on).

Routes with a distinct gateway each on one device cost the kernel time quadratic in their number:
it looks for an equal nexthop in a list per device. A nexthop object is found by its id; the route
names only that. Nobody wants such an object for itself: `hostnet.kinds.route` makes one for each
gateway of a wanted route, where the kernel has them.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hostnet.netlink.attributes import (
    ATTRIBUTE,
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
    NetlinkError,
    NetlinkSocket,
    Request,
    RequestBatch,
)
from hostnet.netlink.table_reader import TableReader

RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY = 1, 2, 4, 5, 6
RTNH_F_ONLINK = 4

_NEXTHOP = struct.Struct("=BBBBI")  # struct nhmsg
_NEXTHOP_ATTRS = struct.Struct("=HHIHHI")
NexthopKey = tuple[str, str | None, bool]
"""Link, gateway, onlink (`route[1:4]`): routes that agree in these share a nexthop object."""
NEXTHOP_ID_BASE = 102_000_000
"""Our nexthop ids are above: far from the small numbers that routing daemons count up."""


class Nexthop(NamedTuple):
    """A nexthop object that routes refer to. `ip nexthop add id ID via VIA dev LINK`.

    Nobody wants one for itself; see the module.
    """

    id: int
    link: str
    via: str
    onlink: bool = False

    @property
    def key(self) -> int:
        """The id, unique in a namespace."""
        return self.id


@dataclass(slots=True, eq=False)
class NexthopTable:
    """Which nexthop objects are there. In an actual state: this kernel has them.

    Compared by identity, so that it can be a member of a state.
    """

    ids: dict[NexthopKey, int] = field(default_factory=dict)
    """Ours."""
    doubles: list[Nexthop] = field(default_factory=list)
    """Ours, equal to one in `ids`: of no use."""
    used: set[int] = field(default_factory=set)
    """Ids in use by anyone."""
    top: int = NEXTHOP_ID_BASE
    """Only grows: an id is never given a second meaning."""

    @classmethod
    def of(cls, ours: list[Nexthop], used: set[int], top: int = NEXTHOP_ID_BASE) -> NexthopTable:
        """The table for what a dump found; `top` as it was before."""
        ids: dict[NexthopKey, int] = {hop[1:4]: hop[0] for hop in ours}
        doubles = []
        if len(ids) != len(ours):
            doubles = [hop for hop in ours if ids[hop[1:4]] != hop.id]
        return cls(ids, doubles, used, max(top, max((h[0] for h in ours), default=0)))


def put_nexthops(
    nexthops: Iterable[Nexthop], index: Mapping[str, int], protocol: int
) -> RequestBatch:
    """`ip nexthop add id ID via VIA dev LINK [onlink] proto P` each.

    A nexthop object never changes, so an id in use is an error: EEXIST. Raises KeyError for
    a link that `index` lacks, OSError for a bad address.
    """
    bodies = []
    for number, link, via, onlink in nexthops:
        family, gateway = pack_address(via)
        bodies.append(
            _NEXTHOP.pack(family, 0, protocol, 0, RTNH_F_ONLINK if onlink else 0)
            + _NEXTHOP_ATTRS.pack(8, NHA_ID, number, 8, NHA_OIF, index[link])
            + ATTRIBUTE.pack(4 + len(gateway), NHA_GATEWAY)
            + gateway
        )
    return RequestBatch(RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_EXCL, bodies)


def delete_nexthops(numbers: Iterable[int]) -> RequestBatch:
    """`ip nexthop del id ID` each; routes that still use one go with it."""
    head = _NEXTHOP.pack(0, 0, 0, 0, 0)
    return RequestBatch(RTM_DELNEXTHOP, 0, [head + attr_u32(NHA_ID, n) for n in numbers])


def dump_nexthops() -> Request:
    """Ask for all nexthop objects. EOPNOTSUPP: the kernel has none."""
    return Request(RTM_GETNEXTHOP, 0, _NEXTHOP.pack(0, 0, 0, 0, 0))


def nexthop_protocol(part: Part) -> int:
    """The protocol number in an RTM_*NEXTHOP message: who made the object."""
    return part[0][part[1] + 2]


def nexthop_id(part: Part) -> int:
    """The id in an RTM_*NEXTHOP message."""
    data, begin, end = part
    return u32(attributes(data, begin + _NEXTHOP.size, end).get(NHA_ID))


class ActualNexthop(NamedTuple):
    """A nexthop object, and whose it is."""

    hop: Nexthop
    protocol: int


def parse_nexthop(part: Part, names: Mapping[int, str]) -> tuple[ActualNexthop, int]:
    """Read an RTM_NEWNEXTHOP message: the object and its device's index."""
    data, begin, end = part
    _, _, protocol, _, flags = _NEXTHOP.unpack_from(data, begin)
    found = attributes(data, begin + 8, end)
    device = u32(found.get(NHA_OIF))
    gateway = found.get(NHA_GATEWAY)
    via = unpack_address(gateway) if gateway else ""
    number, onlink = u32(found.get(NHA_ID)), bool(flags & RTNH_F_ONLINK)
    return ActualNexthop(Nexthop(number, names.get(device, ""), via, onlink), protocol), device


class NexthopReader:
    """Reads a kernel's nexthop objects, and remembers them between two reads."""

    def __init__(self) -> None:
        self.table = NexthopTable()
        """As of the last read, and all that was applied since."""
        self.hops: dict[int, NexthopKey] = {}
        """Ours by id, as of the last read."""
        self._reader = TableReader(parse_nexthop)
        self.supported: bool | None = None
        """Whether the kernel has nexthop objects; None: not known yet."""

    def read(self, sock: NetlinkSocket, names: Mapping[int, str], protocol: int) -> None:
        """Refresh both, where the kernel has nexthop objects. Raises NetlinkError."""
        if self.supported is None:
            self.supported = _is_supported(sock)
        if not self.supported:
            return
        request = dump_nexthops()
        buffers = sock.dump_what_there_is(request, "ip nexthop show")
        found = self._reader.read(buffers, names)
        # one that another program has overwritten has lost our mark, but not its id
        made = set(self.table.ids.values())
        ours = [one.hop for one in found if one.protocol == protocol or one.hop.id in made]
        used = {one.hop.id for one in found}
        self.table = NexthopTable.of(ours, used, top=self.table.top)
        self.hops = {hop.id: hop[1:4] for hop in ours}

    def is_ours(self, number: int) -> bool:
        """Whether an object of this id was made by us, as far as we know."""
        return number > NEXTHOP_ID_BASE and number in self.table.ids.values()

    def forget_devices(self, gone: Iterable[str]) -> None:
        """Their nexthop objects have vanished with them."""
        lost = set(gone)
        ids = self.table.ids
        self.table.ids = {key: ids[key] for key in ids if key[0] not in lost}


def _is_supported(sock: NetlinkSocket) -> bool:
    request = dump_nexthops()
    try:
        sock.dump(request.type, request.body)
    except NetlinkError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True
