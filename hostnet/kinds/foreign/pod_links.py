# SPDX-License-Identifier: Apache-2.0
"""Tells when another program has disconnected pods: from the kernel's messages on links, addresses.

`hostnet.events` overlooks what comes and goes with pods. Here the opposite is asked: of the links
that bear the pods' mark, and of the bridges that they are ports of, which have become worse. What
an ADD does makes them better, and that a pod's link is deleted is the end of a pod.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link import read_links
from hostnet.kinds.link_messages import RTM_DELLINK, RTM_NEWLINK, parse_link, parse_port
from hostnet.netlink.address_messages import RTM_DELADDR, parse_address
from hostnet.netlink.bridge_ports import (
    FORWARDING,
    NAMES,
    STATE,
    dump_ports,
    index_of,
    vlan_bytes,
)
from hostnet.netlink.buffers import Part, messages
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.ownership import POD_ALIAS

RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes
RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 1, 5, 9
PORT_FLAGS = tuple(kind for kind in NAMES if kind != STATE)


class PodLinkWatch:
    """Watches one network namespace (None: the caller's). Close it when done.

    Fits `agent.kernel_applier.KernelEvents`; used by one thread at a time.
    """

    def __init__(self, netns: NetnsRef | None = None) -> None:
        """Start to watch. Raises NetnsError, OSError."""
        self.bridges: Collection[str] = frozenset()
        """Names of bridges of other programs that pods are ports of. Replaced by any thread."""
        self._links: dict[int, ActualLink] = {}
        """Pods' links and bridges, as the last message on each said."""
        self._flags: dict[int, tuple[bytes | None, ...]] = {}
        """Flags and VLANs of bridge ports, likewise."""
        self._forwarding: set[int] = set()
        """Indexes of the ports that were forwarding."""
        self._socket = NetlinkSocket(netns)
        self._socket.receive_buffer(RECEIVE_BUFFER)
        for group in (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR):
            self._socket.join(group)
        with NetlinkSocket(netns) as sock:
            for link in read_links(sock):
                if self._is_bridge(link) or _is_of_a_pod(link):
                    self._links[link.index] = link
            request = dump_ports()
            for part in sock.dump(request.type, request.body, "bridge vlan show"):
                self._note_port(index_of(part), part)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> list[str]:
        """Read all that has arrived; why pods' links have to be read again, or nothing.

        Never waits. Raises OSError.
        """
        reasons: dict[int, str] = {}
        while True:
            try:
                data = self._socket.receive()
            except BlockingIOError:
                return sorted(set(reasons.values()))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                reasons[0] = "more happened than the socket's buffer holds"
                continue
            for message, _, part in messages(data):
                if message in (RTM_NEWLINK, RTM_DELLINK):
                    self._link(message, part, reasons)
                elif message == RTM_DELADDR:
                    self._address(part, reasons)

    def close(self) -> None:
        """Stop watching; again is harmless."""
        self._socket.close()

    def _link(self, message: int, part: Part, reasons: dict[int, str]) -> None:
        link = parse_link(part)
        if part[0][part[1]] == socket.AF_BRIDGE:
            if message == RTM_NEWLINK:
                self._port(link, part, reasons)
            return
        before = self._links.pop(link.index, None)
        if message == RTM_DELLINK:
            self._flags.pop(link.index, None)
            self._forwarding.discard(link.index)
            reasons.pop(link.index, None)  # a pod that ends is taken from its bridge before
            if self._is_bridge(before or link):
                reasons[link.index] = f"bridge {link.name} was deleted"
            return
        if not self._is_bridge(link) and not _is_of_a_pod(before or link):
            return
        self._links[link.index] = link
        if before is None:
            if self._is_bridge(link):
                reasons[link.index] = f"bridge {link.name} is new"
        elif _is_worse(before, link):
            reasons[link.index] = f"{link.name} changed"

    def _port(self, link: ActualLink, part: Part, reasons: dict[int, str]) -> None:
        before = self._flags.get(link.index), link.index in self._forwarding
        self._note_port(link.index, part)
        stopped = before[1] and link.index not in self._forwarding
        if (stopped or self._flags[link.index] != before[0]) and link.index in self._links:
            reasons[link.index] = f"bridge port {link.name} changed"

    def _note_port(self, index: int, part: Part) -> None:
        flags = parse_port(part)
        self._flags[index] = (*(flags.get(kind) for kind in PORT_FLAGS), vlan_bytes(part))
        if flags.get(STATE) == bytes([FORWARDING]):
            self._forwarding.add(index)
        else:
            self._forwarding.discard(index)

    def _address(self, part: Part, reasons: dict[int, str]) -> None:
        found = parse_address(part, {})
        link = self._links.get(found.ifindex)
        if link is None or self._is_bridge(link):
            # another program's bridge, of which there was no message yet, is not known
            where = link.name if link is not None else "a device"
            reasons[found.ifindex] = f"address {found.address.address} of {where} was deleted"

    def _is_bridge(self, link: ActualLink) -> bool:
        return link.kind == "bridge" and (
            link.alias.startswith(POD_ALIAS) or link.name in self.bridges
        )


def _is_of_a_pod(link: ActualLink) -> bool:
    return link.kind == "veth" and link.alias.startswith(POD_ALIAS)


def _is_worse(before: ActualLink, after: ActualLink) -> bool:
    return (
        (before.up and not after.up)
        or before.master not in (after.master, 0)
        or before.alias != after.alias
        or before.mtu != after.mtu
        or (before.mac != after.mac and after.kind == "bridge")
    )
