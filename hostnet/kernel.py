# SPDX-License-Identifier: Apache-2.0
"""One namespace's kernel tables: the dumping half of a reconcile.

Theory of operation
-------------------
`dump(wanted)` reads what is *ours* (by the marks of `hostnet.ownership`) and what is named
in the wanted state: a device of that name, whoever made it, and all that is on it. So a takeover
from flanneld, which marks nothing, is seen and planned like any other difference, while an
operator's own routes are read only to see whether they stand at a wanted key. What each kind
takes for ours is said in its module (`hostnet.kinds`).

An overlay device of ours is one of an overlay's kind (VXLAN, WireGuard, TUN) that is wanted by
name or carries our alias. What the kernel itself made (link-local addresses, connected routes) is
left out.

A `Kernel` is used by one thread at a time. It remembers the indexes and nexthop ids of its
last dump, so that a change known beforehand costs no dump (`hostnet.apply`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

from hostnet.find_link import find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.kind import KernelView, Kind
from hostnet.kinds.link import read_links, remember
from hostnet.kinds.nft_element import NftElementKind
from hostnet.kinds.route import RouteKind
from hostnet.kinds.route_messages import Route
from hostnet.kinds.table import make_kinds
from hostnet.netlink.address_messages import (
    RTM_GETADDR,
    ActualAddress,
    dump_addresses,
    parse_addresses,
)
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import NetnsRef, open_netns
from hostnet.ownership import MARK, Mark
from hostnet.state import HostState


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
        self.kinds: Sequence[Kind] = make_kinds()
        """Of this kernel: they remember what they have read."""
        self.view = KernelView(self.socket, self.netns_fd, mark)
        for kind in self.kinds:
            if isinstance(kind, RouteKind):
                self._routes = kind
            elif isinstance(kind, NftElementKind):
                self._elements = kind
        self._routes.nexthops.supported = nexthop_objects

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

    @property
    def element_port(self) -> int:
        """The netlink port that elements of nftables' sets are changed from. Raises OSError."""
        return self._elements.port(self.view)

    @property
    def index(self) -> dict[str, int]:
        """Interface indexes by name, as of the last look."""
        return self.view.index

    @property
    def names(self) -> dict[int, str]:
        """Names by interface index, as of the last look."""
        return self.view.names

    @property
    def nexthop_objects(self) -> bool:
        """Whether this kernel has nexthop objects. Raises NetlinkError."""
        nexthops = self._routes.nexthops
        if nexthops.supported is None:
            nexthops.read(self.socket, self.names, self.mark.protocol)
        return bool(nexthops.supported)

    def links(self) -> list[ActualLink]:
        """All devices; refreshes `index` and `names`. Raises NetlinkError."""
        found = read_links(self.socket)
        remember(self.view, found)
        return found

    def link(self, which: str | int) -> ActualLink | None:
        """One device by name or index, None when there is none. Raises NetlinkError."""
        return find_link(self.socket, which)

    def addresses(self, link: str | None = None) -> list[ActualAddress]:
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
        return self._routes.read_all(self.view, family)

    def dump(self, wanted: HostState) -> HostState:
        """What is ours, and what is wanted. Raises NetlinkError, OSError, NftError."""
        groups: list[Iterable[Any]] = [
            list(kind.read(self.view, wanted)) for kind in self.kinds if self.mark.has(kind.name)
        ]
        return HostState(*groups)

    def known(self) -> HostState:
        """What is remembered of the last dump and of all that was applied since."""
        return HostState([self._routes.nexthops.table] if self.nexthop_objects else [])

    def forget_devices(self, gone: Iterable[str]) -> None:
        """Devices were deleted: what hung on them is not there any more."""
        self._routes.nexthops.forget_devices(gone)
