# SPDX-License-Identifier: Apache-2.0
"""Sysctls as a kind of object; reading and writing them is in `hostnet.sysctl`."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView
from hostnet.netlink.attributes import attributes, u32
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import Mark
from hostnet.state import HostState
from hostnet.sysctl import Sysctl, line, read, write

RTM_NEWNETCONF = 80  # linux/rtnetlink.h
NETCONF_HEADER = 4  # bytes: struct netconfmsg, padded
NETCONFA_IFINDEX, NETCONFA_FORWARDING = 1, 2
NETCONFA_IFINDEX_ALL = 0xFFFFFFFF
PATHS = {False: "net/ipv4/conf/{}/forwarding", True: "net/ipv6/conf/{}/forwarding"}
"""By whether it is IPv6's."""
HOST_IPV4 = "net/ipv4/ip_forward"
"""The name that `net/ipv4/conf/all/forwarding` goes by."""


class SysctlKind:
    """Sysctls: only those that are wanted are looked at, and none is ever taken back.

    Fits `hostnet.kinds.kind.Kind`.
    """

    name = "sysctl"
    types = (Sysctl,)
    deletes_last = False

    def __init__(self) -> None:
        self._wanted: set[str] = set()

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Sysctl]:
        """The values at the wanted paths."""
        self._wanted.clear()
        self._wanted.update(one.path for one in wanted.of(Sysctl))
        return read(wanted.of(Sysctl), view.netns_fd)

    def diff(self, context: DiffContext) -> PlanPart:
        """Those of the host at first; those of a device that is made when it is there."""
        changed = sorted(context.desired.of(Sysctl) - context.actual.of(Sysctl))
        later = [one for one in changed if not context.made.isdisjoint(one.path.split("/"))]
        now = [one for one in changed if one not in later]
        return PlanPart(first=step(self, "put", now), put=step(self, "put", later))

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""
        errors = write(step.objects, view.netns_fd)
        return [Failure(line(one), error.strerror or str(error)) for one, error in errors.items()]

    def watcher(self, mark: Mark) -> ForwardingWatcher:
        """Tells that forwarding was switched off: the kernel sends no messages on the others."""
        del mark
        return ForwardingWatcher(self._wanted)

    def line(self, verb: str, one: Sysctl) -> str:
        """`sysctl -w net.ipv4.ip_forward=1`."""
        del verb
        return line(one)


class ForwardingWatcher:
    """Fits `hostnet.kinds.watcher.Watcher` (linux/netconf.h)."""

    protocol = NETLINK_ROUTE
    groups = (24, 25)  # RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF
    messages = (RTM_NEWNETCONF,)

    def __init__(self, wanted: set[str]) -> None:
        """`wanted` are the paths of the sysctls that are wanted now."""
        self._wanted = wanted

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Forwarding that is wanted on is off, of the host or of one device."""
        del message
        data, begin, end = part
        found = attributes(data, begin + NETCONF_HEADER, end)
        if found.get(NETCONFA_FORWARDING) != bytes(4):
            return None
        index = u32(found.get(NETCONFA_IFINDEX))
        link = view.links.get(index)
        name = "all" if index == NETCONFA_IFINDEX_ALL else link.name if link is not None else ""
        path = PATHS[data[begin] == socket.AF_INET6].format(name)
        path = HOST_IPV4 if path == PATHS[False].format("all") else path
        return f"{path} was set to 0" if path in self._wanted else None

    def deletion(self, one: object) -> None:
        """The kernel tells of no deletion."""

    def writing(self, one: object) -> None:
        """Nothing: we never switch it off."""
