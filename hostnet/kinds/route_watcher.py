"""Tells that a route was changed, or a nexthop object deleted."""

from __future__ import annotations

from hostnet.kinds.nexthop import RTM_DELNEXTHOP, nexthop_protocol
from hostnet.kinds.route_messages import RTM_DELROUTE, RTM_NEWROUTE, parse_route, route_protocol
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket

DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


class RouteWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (7, 11, 32)  # RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP (Linux 5.3)
    messages = (RTM_NEWROUTE, RTM_DELROUTE, RTM_DELNEXTHOP)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Ours, those through overlay devices, and default routes: they lead to the underlay."""
        if message == RTM_DELNEXTHOP:
            ours = nexthop_protocol(part) == view.mark.protocol
            return "a nexthop object was deleted" if ours else None
        route, device = parse_route(part, {}, {})
        if route is None:
            return None
        ours = route_protocol(part) == view.mark.protocol
        if ours or route.destination in DEFAULT_ROUTES or view.is_overlay(device):
            done = "was deleted" if message == RTM_DELROUTE else "was set"
            return f"route {route.destination} {done}"
        return None

    def deletion(self, one: object) -> None:
        """The messages have a sender."""
