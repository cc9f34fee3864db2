"""What is in this namespace's kernel tables: the dumping half of a reconcile.

Theory of operation
-------------------
`dump(scope)` reads what is *ours* (by the marks of `hostnet.ownership`) and what is named
in `scope`, usually the desired state: a device of that name, whoever made it, and all that
is on it. So a takeover from flanneld, which marks nothing, is seen and planned like any
other difference, while an operator's own routes are never even looked at: the kernel
filters the dumps.

    links        named in scope, or with our alias
    addresses    marked, or on overlay devices of ours, or wanted by scope
    routes       with our protocol number; those made by hand or by flanneld through overlay
                 devices of ours: `unmarked`
    neighbours   permanent ones on overlay devices of ours; elsewhere those wanted by scope
    FDB          permanent ones on VXLAN devices of ours
    nexthops     with our protocol number
    sysctls, nftables tables    named in scope; our tables whether named or not

An overlay device of ours is one of an overlay's kind (VXLAN, WireGuard, TUN) that scope
names or that carries our alias. What the kernel itself made (link-local addresses,
connected routes) is left out.

A `Kernel` is used by one thread at a time. It remembers the indexes and nexthop ids of its
last dump, so that a change known beforehand costs no dump (`hostnet.apply`).
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Mapping
from typing import Self

from hostnet.find_link import find_link
from hostnet.kinds import sysctl
from hostnet.kinds.address import (
    RT_SCOPE_LINK,
    RTM_GETADDR,
    FoundAddress,
    dump_addresses,
    parse_addresses,
)
from hostnet.kinds.link import FoundLink, dump_links, parse_link, to_state
from hostnet.kinds.neighbour import FRONT, dump_fdb, dump_neighbours, parse_fdb, parse_neighbour
from hostnet.kinds.route import (
    NexthopKey,
    NexthopTable,
    dump_nexthops,
    dump_routes,
    parse_nexthop,
    parse_route,
    route_protocol,
)
from hostnet.netlink.socket import (
    NetlinkError,
    NetlinkSocket,
    Part,
    Request,
    parts_of,
)
from hostnet.netlink.table_reader import TableReader
from hostnet.netns import NetnsRef, open_netns
from hostnet.nft import tables as nftables
from hostnet.ownership import MARK, OVERLAY_KINDS, Mark
from hostnet.state import Address, FdbEntry, HostState, Neighbour, Route

FAMILIES = (socket.AF_INET, socket.AF_INET6)
RTPROT_BY_HAND = (3, 4)  # RTPROT_BOOT, which ip(8) and flanneld say, and RTPROT_STATIC
IFAPROT_KERNEL = frozenset({1, 2, 3})  # loopback, router advertisement, link-local: if_addr.h


class Kernel:
    """The tables of one network namespace (None: the caller's). Close it when done."""

    def __init__(
        self,
        netns: NetnsRef | None = None,
        *,
        mark: Mark = MARK,
        nexthop_objects: bool | None = None,
    ) -> None:
        """Open it. `nexthop_objects` None finds out whether the kernel has them.

        Raises NetnsError, OSError.
        """
        self.mark = mark
        self.netns_fd = open_netns("/proc/thread-self/ns/net" if netns is None else netns)
        try:
            self.socket = NetlinkSocket(self.netns_fd)
        except BaseException:
            os.close(self.netns_fd)
            raise
        self.nexthop_objects = (
            self._has_nexthop_objects() if nexthop_objects is None else nexthop_objects
        )
        self.index: dict[str, int] = {}
        """Interface indexes by name, as of the last look."""
        self.names: dict[int, str] = {}
        self.nexthops = NexthopTable()
        """As of the last dump and all that was applied since."""
        self._route_readers: dict[tuple[int, int], TableReader[Route]] = {}
        self._neighbour_readers: dict[tuple[str, int], TableReader[Neighbour]] = {}
        self._fdb_readers: dict[tuple[str, int], TableReader[FdbEntry]] = {}
        self._nexthop_reader = TableReader(parse_nexthop)
        self._hops: dict[int, NexthopKey] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self.socket.close()
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1

    def links(self) -> list[FoundLink]:
        """All devices; refreshes `index` and `names`. Raises NetlinkError."""
        request = dump_links()
        found = [parse_link(p) for p in self.socket.dump(request.type, request.body, "ip link")]
        self.index = {link.name: link.index for link in found}
        self.names = {link.index: link.name for link in found}
        return found

    def link(self, which: str | int) -> FoundLink | None:
        """One device by name or index, None when there is none. Raises NetlinkError."""
        return find_link(self.socket, which)

    def addresses(self, link: str | None = None) -> list[FoundAddress]:
        """All addresses, or those of one device. Raises NetlinkError."""
        if not self.names:
            self.links()
        ifindex = self.index.get(link, 0) if link is not None else 0
        if link is not None and not ifindex:
            return []
        parts = self.socket.dump(RTM_GETADDR, dump_addresses(0, ifindex).body, "ip addr show")
        found = parse_addresses(parts, self.names)
        return [a for a in found if a.ifindex == ifindex] if ifindex else found

    def routes(self, family: int) -> list[Route]:
        """The unicast routes of a family, all tables. Raises NetlinkError."""
        if not self.names:
            self.links()
        if self.nexthop_objects:
            self._read_nexthops()
        parts = [p for b in self._dump(dump_routes(family), "ip route") for p in parts_of(b)]
        found = (parse_route(part, self.names, self._hops)[0] for part in parts)
        return [route for route in found if route is not None]

    def dump(self, scope: HostState) -> HostState:
        """What is ours, and what is named in `scope`. Raises NetlinkError, OSError, NftError.

        Refreshes `index`, `names` and `nexthops`.
        """
        if not self.mark.has("link"):
            return HostState(
                sysctls=frozenset(sysctl.read(scope.sysctls, self.netns_fd)),
                tables=nftables.dump(scope.tables, self.mark.tables, self.netns_fd),
            )
        wanted = {link.name for link in scope.links}
        found = self.links()
        links = [f for f in found if f.name in wanted or f.alias == self.mark.alias]
        ours = {f.name for f in links if f.kind in OVERLAY_KINDS}
        if self.nexthop_objects:
            self._read_nexthops()
        routes, unmarked_routes = self._our_routes(ours)
        return HostState(
            links=frozenset(to_state(f, self.names) for f in links),
            addresses=frozenset(self._our_addresses(scope, ours)),
            routes=frozenset(routes),
            neighbours=frozenset(self._neighbours(scope, ours)),
            fdb=frozenset(self._fdb(links)),
            sysctls=frozenset(sysctl.read(scope.sysctls, self.netns_fd)),
            tables=nftables.dump(scope.tables, self.mark.tables, self.netns_fd),
            unmarked=frozenset(unmarked_routes),
        )

    def _our_routes(self, ours: set[str]) -> tuple[list[Route], list[Route]]:
        marked: list[Route] = []
        unmarked: list[Route] = []
        protocol = self.mark.protocol
        for family in FAMILIES:
            buffers = self._dump(dump_routes(family, protocol=protocol), "ip route show")
            marked += self._route_reader(family, 0).read(buffers, self.names)
            for name, other in itertools.product(sorted(ours), RTPROT_BY_HAND):
                oif = self.index[name]
                request = dump_routes(family, oif=oif, protocol=other)
                buffers = self._dump(request, f"ip route show dev {name} proto {other}")
                unmarked += self._route_reader(family, oif).read(buffers, self.names)
        return marked, unmarked

    def _route_reader(self, family: int, oif: int) -> TableReader[Route]:
        """Our routes of a family, or those of others through one device."""
        reader = self._route_readers.get((family, oif))
        if reader is None:
            mine = self.mark.protocol

            def ours(part: Part, names: Mapping[int, str]) -> tuple[Route | None, int]:
                if route_protocol(part) != mine:
                    return None, 0
                return parse_route(part, names, self._hops)

            def others(part: Part, names: Mapping[int, str]) -> tuple[Route | None, int]:
                if route_protocol(part) not in RTPROT_BY_HAND:
                    return None, 0
                route, device = parse_route(part, names, self._hops)
                return (route if device == oif else None), device

            reader = TableReader(others if oif else ours)
            self._route_readers[family, oif] = reader
        return reader

    def _our_addresses(self, scope: HostState, ours: set[str]) -> list[Address]:
        return [
            found.address
            for found in self.addresses()
            if found.protocol == self.mark.protocol
            or (
                found.address.link in ours
                and found.scope != RT_SCOPE_LINK
                and found.protocol not in IFAPROT_KERNEL
            )
            or found.address in scope.addresses
        ]

    def _neighbours(self, scope: HostState, ours: set[str]) -> list[Neighbour]:
        neighbours: list[Neighbour] = []
        elsewhere = {n.link for n in scope.neighbours} - ours
        wanted = {n.key for n in scope.neighbours if n.link in elsewhere}
        for name in sorted((ours | elsewhere) & self.index.keys()):
            for family in FAMILIES:
                request = dump_neighbours(family, self.index[name])
                buffers = self._dump(request, f"ip neigh show dev {name}")
                reader = self._neighbour_readers.setdefault(
                    (name, family), TableReader(parse_neighbour, FRONT[family])
                )
                found = reader.read(buffers, self.names)
                if name in ours:
                    neighbours += [n for n in found if n.link == name]
                else:
                    neighbours += [n for n in found if n.key in wanted]
        return neighbours

    def _fdb(self, links: list[FoundLink]) -> list[FdbEntry]:
        entries: list[FdbEntry] = []
        for link in links:
            if link.kind != "vxlan":
                continue
            family = socket.AF_INET6 if link.over_ipv6 else socket.AF_INET
            buffers = self._dump(dump_fdb(link.index), f"bridge fdb show dev {link.name}")
            reader = self._fdb_readers.setdefault(
                (link.name, family), TableReader(parse_fdb, FRONT[family])
            )
            entries += [e for e in reader.read(buffers, self.names) if e.link == link.name]
        return entries

    def _read_nexthops(self) -> None:
        """Refresh `nexthops`."""
        buffers = self._dump(dump_nexthops(), "ip nexthop show")
        found = self._nexthop_reader.read(buffers, self.names)
        ours = [one.hop for one in found if one.protocol == self.mark.protocol]
        self.nexthops = NexthopTable.of(ours, {one.hop.id for one in found}, top=self.nexthops.top)
        self._hops = {hop.id: hop[1:4] for hop in ours}

    def _has_nexthop_objects(self) -> bool:
        try:
            self.socket.dump(dump_nexthops().type, dump_nexthops().body)
        except NetlinkError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        return True

    def _dump(self, request: Request, operation: str) -> list[bytes]:
        try:
            return self.socket.dump_raw(request.type, request.body, operation)
        except NetlinkError as error:
            # ENODEV: the filter's device has gone; EOPNOTSUPP: a kernel without IPv6.
            # Both mean that there is nothing of the kind.
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                return []
            raise
