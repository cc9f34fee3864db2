# SPDX-License-Identifier: Apache-2.0
"""Tells that a route was changed, or a nexthop object."""

from __future__ import annotations

from collections.abc import Callable

from hostnet.kinds.foreign.routes import ForeignRoutes
from hostnet.kinds.nexthop import RTM_DELNEXTHOP, RTM_NEWNEXTHOP, nexthop_id, nexthop_protocol
from hostnet.kinds.route_messages import RTM_DELROUTE, RTM_NEWROUTE, parse_place, parse_route
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket

DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


class RouteWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (7, 11, 32)  # RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP (Linux 5.3)
    messages = (RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_DELNEXTHOP)

    def __init__(self, foreign: ForeignRoutes, is_our_nexthop: Callable[[int], bool]) -> None:
        """`foreign` knows where our routes are; `is_our_nexthop` takes a nexthop object's id."""
        self._foreign = foreign
        self._is_our_nexthop = is_our_nexthop

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Ours, those through overlay devices or to a destination of ours, and default routes.

        Default routes lead to the underlay.
        """
        if message in (RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
            done = "deleted" if message == RTM_DELNEXTHOP else "set"
            ours = nexthop_protocol(part) == view.mark.protocol
            if ours or self._is_our_nexthop(nexthop_id(part)):
                return f"a nexthop object was {done}"
            return None
        place = parse_place(part)
        route, device = parse_route(part, {}, {})
        leads_elsewhere = self._foreign.was_told(place)
        if (
            leads_elsewhere
            or place.protocol == view.mark.protocol
            or (route is not None and place.key[0] in DEFAULT_ROUTES)
            or (route is not None and view.is_overlay(device))
        ):
            done = "was deleted" if message == RTM_DELROUTE else "was set"
            return f"route {place.key[0]} {done}"
        return None

    def deletion(self, one: object) -> None:
        """The messages have a sender."""

    def writing(self, one: object) -> None:
        """Likewise."""
