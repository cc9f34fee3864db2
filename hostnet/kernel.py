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
    routes       with our protocol number; others through overlay devices of ours: `unmarked`
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
import os
import socket
from typing import Self

from hostnet import nftables, sysctl
from hostnet.address import (
    RT_SCOPE_LINK,
    RTM_GETADDR,
    FoundAddress,
    dump_addresses,
    parse_addresses,
)
from hostnet.link import FoundLink, dump_links, get_link, parse_link, to_state
from hostnet.neighbour import dump_fdb, dump_neighbours, parse_fdb, parse_neighbours
from hostnet.netlink import NetlinkError, NetlinkSocket, Part, Request
from hostnet.netns import NetnsRef, open_netns
from hostnet.ownership import MARK, Mark
from hostnet.plan import OVERLAY_KINDS
from hostnet.route import dump_nexthops, dump_routes, parse_nexthops, parse_routes
from hostnet.state import Address, FdbEntry, HostState, Neighbour, Nexthop, Route

FAMILIES = (socket.AF_INET, socket.AF_INET6)
RTPROT_KERNEL = frozenset({1, 2, 9})  # ICMP redirects, the kernel, router advertisements
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
        self.nexthops: set[Nexthop] = set()
        """Our nexthop objects, as of the last dump and all that was applied since."""
        self.nexthop_ids: set[int] = set()
        """Ids in use, by anyone."""

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
        found = [parse_link(part) for part in self._dump(dump_links(), "ip link show")]
        self.index = {link.name: link.index for link in found}
        self.names = {link.index: link.name for link in found}
        return found

    def link(self, which: str | int) -> FoundLink | None:
        """One device by name or index, None when there is none. Raises NetlinkError."""
        try:
            return parse_link(self.socket.get(get_link(which), f"ip link show dev {which}"))
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

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

    def routes(self, family: int, *, protocol: int = 0) -> list[Route]:
        """The unicast routes of a family, all tables. Raises NetlinkError."""
        if not self.names:
            self.links()
        parts = self._dump(dump_routes(family, protocol=protocol), "ip route show table all")
        hops = {hop.id: hop for hop in self._nexthops()} if self.nexthop_objects else {}
        return parse_routes(parts, self.names, hops, protocol=protocol)

    def dump(self, scope: HostState) -> HostState:
        """What is ours, and what is named in `scope`. Raises NetlinkError, OSError."""
        wanted = {link.name for link in scope.links}
        found = self.links()
        links = [f for f in found if f.name in wanted or f.alias == self.mark.alias]
        ours = {f.name for f in links if f.kind in OVERLAY_KINDS}
        self.nexthops = set(self._nexthops()) if self.nexthop_objects else set()
        routes, unmarked_routes = self._our_routes(ours)
        return HostState(
            links=frozenset(to_state(f, self.names) for f in links),
            addresses=frozenset(self._our_addresses(scope, ours)),
            routes=frozenset(routes),
            neighbours=frozenset(self._neighbours(scope, ours)),
            fdb=frozenset(self._fdb(links)),
            sysctls=frozenset(sysctl.read(scope.sysctls, self.netns_fd)),
            tables=nftables.dump(scope.tables, self.mark.tables, self.netns_fd),
            nexthops=frozenset(self.nexthops),
            unmarked=frozenset(unmarked_routes),
        )

    def _our_routes(self, ours: set[str]) -> tuple[list[Route], list[Route]]:
        marked: list[Route] = []
        unmarked: list[Route] = []
        hops = {hop.id: hop for hop in self.nexthops}
        protocol = self.mark.protocol
        for family in FAMILIES:
            parts = self._dump(dump_routes(family, protocol=protocol), "ip route show")
            marked += parse_routes(parts, self.names, hops, protocol=protocol)
            for name in sorted(ours):
                oif = self.index[name]
                parts = self._dump(dump_routes(family, oif=oif), f"ip route show dev {name}")
                others = RTPROT_KERNEL | {protocol}
                unmarked += parse_routes(parts, self.names, hops, other_than=others, oif=oif)
        return marked, unmarked

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
                parts = self._dump(request, f"ip neigh show dev {name}")
                found = parse_neighbours(parts, self.names)
                if name in ours:
                    neighbours += [n for n in found if n.link == name]
                else:
                    neighbours += [n for n in found if n.key in wanted]
        return neighbours

    def _fdb(self, links: list[FoundLink]) -> list[FdbEntry]:
        entries: list[FdbEntry] = []
        for link in links:
            if link.kind == "vxlan":
                parts = self._dump(dump_fdb(link.index), f"bridge fdb show dev {link.name}")
                entries += parse_fdb(parts, self.names, link.index)
        return entries

    def _nexthops(self) -> list[Nexthop]:
        parts = self._dump(dump_nexthops(), "ip nexthop show")
        ours, self.nexthop_ids = parse_nexthops(parts, self.names, self.mark.protocol)
        return ours

    def _has_nexthop_objects(self) -> bool:
        try:
            self.socket.dump(dump_nexthops().type, dump_nexthops().body)
        except NetlinkError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        return True

    def _dump(self, request: Request, operation: str) -> list[Part]:
        try:
            return self.socket.dump(request.type, request.body, operation)
        except NetlinkError as error:
            # ENODEV: the filter's device has gone; EOPNOTSUPP: a kernel without IPv6.
            # Both mean that there is nothing of the kind.
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                return []
            raise
