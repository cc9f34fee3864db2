"""Netlink noise in, "look again" out.

Theory of operation
-------------------
The kernel tells of every change to links, addresses, routes, neighbours, FDB, nexthops and
nftables. We never act on what a message says: it only decides whether the tables are worth
a look (`hostnet.apply.reconcile`), so a lost, doubled or reordered one does no harm. If the
socket's buffer overran, that is itself a reason to look.

A look costs a dump, so what can't concern us must not cause one:

* our own changes: the kernel drops them before they reach us, by the sender's port number
  (`ignore`; a socket filter, linux/filter.h). FDB messages and the deletion of neighbours
  bear no sender; there, that an FDB entry was written is dropped as well, that one was deleted
  is news, unless it was in a plan just applied (`settle`);
* ARP and ND at work: neighbours that aren't permanent are dropped in the filter too;
* pods that come and go: veths in bridges, with our alias, or named `veth...`;
* routes and addresses that others make, unless they bear our mark or pass through an overlay
  device; a default route, as it says where the underlay is;
* nftables tables that aren't ours.

For asyncio: `loop.add_reader(monitor.fileno(), ...)`, then `drain()`.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Iterable
from typing import Self

from hostnet.kinds.address import (
    RT_SCOPE_LINK,
    RTM_DELADDR,
    RTM_NEWADDR,
    dump_addresses,
    parse_address,
)
from hostnet.kinds.found_link import IFF_LOWER_UP, IFF_UP, FoundLink
from hostnet.kinds.link_messages import RTM_DELLINK, RTM_NEWLINK, dump_links, parse_link
from hostnet.kinds.neighbour import NDA_DST, NDA_LLADDR, NUD_PERMANENT, RTM_DELNEIGH, RTM_NEWNEIGH
from hostnet.kinds.nexthop import RTM_DELNEXTHOP
from hostnet.kinds.route_messages import RTM_DELROUTE, RTM_NEWROUTE, parse_route, route_protocol
from hostnet.netlink.attributes import (
    attributes,
    text_of,
    unpack_address,
    unpack_mac,
)
from hostnet.netlink.socket import (
    NetlinkSocket,
    Part,
    messages,
)
from hostnet.netns import NetnsRef
from hostnet.ownership import MARK, OVERLAY_KINDS, POD_ALIAS, Mark
from hostnet.plan import Plan

# RTNLGRP_*, linux/rtnetlink.h
GROUPS = (1, 3, 5, 7, 9, 11)  # link, neigh, IPv4 address, IPv4 route, IPv6 address, IPv6 route
NEXTHOP_GROUP = 32  # Linux 5.3 on
NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
NETLINK_NETFILTER = 12  # linux/netlink.h
NFNL_SUBSYS_NFTABLES = 10
NFPROTO = {"ip": 2, "ip6": 10, "inet": 1, "arp": 3, "bridge": 7, "netdev": 5}  # linux/netfilter.h
NFTA_TABLE = 1  # the table's name, in messages on tables, chains, rules, sets and elements
DEFAULTS = ("0.0.0.0/0", "::/0")
RECEIVE_BUFFER = 16 * 1024 * 1024  # bytes: 20,000 messages of a kilobyte each, kernel overhead in
REASONS = 16  # as many are told; one is enough to look

_NEIGHBOUR = struct.Struct("=iH")  # struct ndmsg from its index on: index, state


class Monitor:
    """Watches one network namespace (None: the caller's). Close it when done."""

    def __init__(
        self, netns: NetnsRef | None = None, *, ignore: Iterable[int] = (), mark: Mark = MARK
    ) -> None:
        """Start to watch. `ignore`: ports whose changes are our own (`kernel.socket.port`).

        Raises NetnsError, OSError.
        """
        self._mark = mark
        self._ports: set[int] = set()
        self._sockets: list[NetlinkSocket] = []
        self._rtnl: NetlinkSocket | None = None
        """None for an owner of nftables only: it is not woken by every route."""
        self._links: dict[int, FoundLink] = {}
        self._addresses: set[tuple[int, str]] = set()
        self._expected: set[tuple[str, str]] = set()
        self._poll = select.epoll()
        try:
            self._open(netns)
            self.ignore(*ignore)
        except BaseException:
            self.close()
            raise

    def _open(self, netns: NetnsRef | None) -> None:
        if self._mark.tables:
            try:
                nft = NetlinkSocket(netns, protocol=NETLINK_NETFILTER, groups=(NFTABLES_GROUP,))
            except OSError as error:
                if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOENT):
                    raise  # a kernel without nftables has nothing to tell of it
            else:
                self._add(nft)
        if self._mark.has("link"):
            self._rtnl = self._add(NetlinkSocket(netns, groups=GROUPS))
            with contextlib.suppress(OSError):  # a kernel without nexthop objects
                self._rtnl.join(NEXTHOP_GROUP)
            self._read_links(netns)

    def _read_links(self, netns: NetnsRef | None) -> None:
        """Learn what is there, to tell what has changed from what was only said again."""
        with NetlinkSocket(netns) as dump:
            request = dump_links()
            for part in dump.dump(request.type, request.body, "ip link show"):
                link = parse_link(part)
                self._links[link.index] = link
            request = dump_addresses()
            for part in dump.dump(request.type, request.body, "ip addr show"):
                found = parse_address(part, {})
                self._addresses.add((found.ifindex, found.address.address))

    def _add(self, sock: NetlinkSocket) -> NetlinkSocket:
        sock.receive_buffer(RECEIVE_BUFFER)
        self._sockets.append(sock)
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; again is harmless."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        self._poll.close()

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self._poll.fileno()

    def ignore(self, *ports: int) -> None:
        """Changes that come from these netlink ports are no news: they are our own."""
        self._ports |= set(ports)
        if self._rtnl is not None:
            self._rtnl.attach_filter(packet_filter(self._ports))

    def settle(self, plans: Iterable[Plan]) -> list[str]:
        """Drain after applying `plans`: what they deleted is no news. Returns as `drain` does.

        The kernel queues its messages before the apply's last answer, so all of them are
        there by now, and nothing need be remembered for later.
        """
        self._expected = {
            (entry.link, entry.address if step.kind == "neighbour" else entry.mac)
            for plan in plans
            for step in plan.steps
            if step.kind in ("neighbour", "fdb") and step.verb == "delete"
            for entry in step.objects
        }
        try:
            return self.drain()
        finally:
            self._expected = set()

    def drain(self) -> list[str]:
        """Read all that has arrived; the reasons to look again, a few words each.

        Empty: nothing that concerns us. Never waits. Raises OSError.
        """
        reasons: dict[str, None] = {}
        for sock in self._sockets:
            while True:
                try:
                    data = sock.receive()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    reasons["more happened than the socket's buffer holds"] = None
                    continue
                for kind, port, part in messages(data):
                    reason = None if port in self._ports else self._reason(kind, part)
                    if reason and len(reasons) < REASONS:
                        reasons[reason] = None
        return list(reasons)

    def _reason(self, kind: int, part: Part) -> str | None:
        """Why a message is worth a look, or None."""
        if kind >> 8 == NFNL_SUBSYS_NFTABLES:
            return self._table(part)
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return self._link(kind, part)
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            return self._address(kind, part)
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return self._route(kind, part)
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return self._neighbour(kind, part)
        if kind == RTM_DELNEXTHOP and part[0][part[1] + 2] == self._mark.protocol:
            return "a nexthop object was deleted"
        return None

    def _link(self, kind: int, part: Part) -> str | None:
        if part[0][part[1]] == socket.AF_BRIDGE:
            return None  # a bridge port's settings, not a device
        link = parse_link(part)
        before = self._links.get(link.index)
        if kind == RTM_DELLINK:
            self._links.pop(link.index, None)
            return None if _of_a_pod(before or link) else f"device {link.name} was deleted"
        self._links[link.index] = link
        if _of_a_pod(link) or (before is not None and _same(before, link)):
            return None
        return f"device {link.name} changed" if before else f"device {link.name} is new"

    def _address(self, kind: int, part: Part) -> str | None:
        names = {index: link.name for index, link in self._links.items()}
        found = parse_address(part, names)
        link = self._links.get(found.ifindex)
        if found.scope == RT_SCOPE_LINK or (link is not None and _of_a_pod(link)):
            return None  # link-local ones are the kernel's own
        key = (found.ifindex, found.address.address)
        if kind == RTM_NEWADDR and key in self._addresses:
            return None  # a router advertisement renews its lifetime
        (self._addresses.add if kind == RTM_NEWADDR else self._addresses.discard)(key)
        return f"address {found.address.address} came or went"

    def _route(self, kind: int, part: Part) -> str | None:
        route, device = parse_route(part, {}, {})
        if route is None:
            return None
        ours = route_protocol(part) == self._mark.protocol
        if ours or route.destination in DEFAULTS or self._is_overlay(device):
            done = "was deleted" if kind == RTM_DELROUTE else "was set"
            return f"route {route.destination} {done}"
        return None

    def _neighbour(self, kind: int, part: Part) -> str | None:
        data, begin, end = part
        family, index, state = data[begin], *_NEIGHBOUR.unpack_from(data, begin + 4)
        if not self._is_overlay(index):
            return None
        link = self._links[index].name
        if kind == RTM_DELNEIGH and self._expected:
            found = attributes(data, begin + 12, end)
            if family == socket.AF_BRIDGE and NDA_LLADDR in found:
                which = unpack_mac(found[NDA_LLADDR])
            else:
                which = unpack_address(found[NDA_DST]) if NDA_DST in found else ""
            if (link, which) in self._expected:
                return None
        if family == socket.AF_BRIDGE:
            learned = not state & NUD_PERMANENT
            return None if learned else f"a forwarding entry of {link} was deleted"
        return f"a neighbour on {link} was {'deleted' if kind == RTM_DELNEIGH else 'set'}"

    def _table(self, part: Part) -> str | None:
        data, begin, end = part
        name = text_of(attributes(data, begin + 4, end).get(NFTA_TABLE))
        ours = any(
            NFPROTO[family] == data[begin] and mine == name for family, mine in self._mark.tables
        )
        return f"nftables table {name} changed" if ours else None

    def _is_overlay(self, index: int) -> bool:
        link = self._links.get(index)
        return link is not None and link.kind in OVERLAY_KINDS


def _of_a_pod(link: FoundLink) -> bool:
    return link.kind == "veth" and (
        bool(link.master) or link.alias.startswith(POD_ALIAS) or link.name.startswith("veth")
    )


def _same(before: FoundLink, after: FoundLink) -> bool:
    """Whether nothing changed that a desired state or the underlay depends on."""
    state = IFF_UP | IFF_LOWER_UP
    if before.flags & state != after.flags & state:
        return False
    if after.kind in OVERLAY_KINDS and before.data != after.data:
        return False  # a bridge's data won't do: it holds timers
    names = ("name", "kind", "mtu", "mac", "alias", "master", "addrgenmode", "vlan_filtering")
    return all(getattr(before, name) == getattr(after, name) for name in names)


def packet_filter(ports: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """The classic BPF program that drops what is ours and what is no permanent neighbour.

    Rows of struct sock_filter: code, jump if true, jump if false, constant. The machine loads
    in network byte order what netlink writes in the host's.
    """
    load32, load16, load8, equal, any_bit, answer = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
    mine = sorted(ports)
    program = [(load32, 0, 0, 12)]  # nlmsg_pid: the sender's port
    after = 7  # rows between the last comparison of ports and `drop`
    for place, port in enumerate(mine):
        program.append((equal, len(mine) - place - 1 + after, 0, socket.htonl(port)))
    return [
        *program,
        (load16, 0, 0, 4),  # nlmsg_type
        (equal, 0, 4, socket.htons(RTM_NEWNEIGH)),
        (load8, 0, 0, 16),  # ndm_family
        (equal, 3, 0, socket.AF_BRIDGE),
        (load16, 0, 0, 24),  # ndm_state
        (any_bit, 0, 1, socket.htons(NUD_PERMANENT)),
        (answer, 0, 0, 0xFFFFFFFF),  # keep
        (answer, 0, 0, 0),  # drop
    ]
