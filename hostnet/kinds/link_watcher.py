# SPDX-License-Identifier: Apache-2.0
"""Tells that a network device was made, changed or deleted."""

from __future__ import annotations

import socket

from hostnet.kinds.actual_link import IFF_LOWER_UP, IFF_UP, ActualLink
from hostnet.kinds.link_messages import RTM_DELLINK, RTM_NEWLINK, dump_links, parse_link
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView, is_of_a_pod
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import OVERLAY_KINDS, TRIAL_LINK

COMPARED = ("name", "kind", "mtu", "mac", "alias", "master", "addrgenmode", "vlan_filtering")


class LinkWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (1,)  # RTNLGRP_LINK
    messages = (RTM_NEWLINK, RTM_DELLINK)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """All devices: a message is compared with what was there before."""
        request = dump_links()
        for part in sock.dump(request.type, request.body, "ip link show"):
            link = parse_link(part)
            view.links[link.index] = link

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Devices that are not a pod's, where what a desired state depends on has changed."""
        if part[0][part[1]] == socket.AF_BRIDGE:
            return None  # a bridge port's settings, not a device
        link = parse_link(part)
        if link.name == TRIAL_LINK:
            return None  # a look at the kernel that it tells of would have the next one follow
        before = view.links.get(link.index)
        if message == RTM_DELLINK:
            view.links.pop(link.index, None)
            return None if is_of_a_pod(before or link) else f"device {link.name} was deleted"
        view.links[link.index] = link
        if is_of_a_pod(link) or (before is not None and _is_same(before, link)):
            return None
        return f"device {link.name} changed" if before else f"device {link.name} is new"

    def deletion(self, one: object) -> None:
        """The messages have a sender."""

    def writing(self, one: object) -> None:
        """Likewise."""


def _is_same(before: ActualLink, after: ActualLink) -> bool:
    """Whether nothing changed that a desired state or the underlay depends on."""
    state = IFF_UP | IFF_LOWER_UP
    if before.flags & state != after.flags & state:
        return False
    if after.kind in OVERLAY_KINDS and before.data != after.data:
        return False  # a bridge's data is not compared: it holds timers
    return all(getattr(before, name) == getattr(after, name) for name in COMPARED)
