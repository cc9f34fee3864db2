# SPDX-License-Identifier: Apache-2.0
"""Tracked connections: list them, delete some (linux/netfilter/nfnetlink_conntrack.h).

Only those of protocols with ports are read. A deletion names both the connection and its id, so
that one that was made anew meanwhile under the same addresses is left alone.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from typing import NamedTuple

from hostnet.netlink.attributes import attr, attr_nest, attributes, nested
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request
from hostnet.netns import NetnsRef
from hostnet.nft.messages import NETLINK_NETFILTER

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
# enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID = 1, 2, 12
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_SRC: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 3}
CTA_IP_DST: dict[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 4}
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER, CTA_FILTER_ORIG_FLAGS = 25, 1
# include/linux/netfilter/nf_conntrack_netlink.h: CTA_FILTER_F_*
_BY_ADDRESS, _BY_PROTOCOL, _BY_PORT = 1 << 1, 1 << 3, 1 << 5
_HEAD = 4  # bytes of struct nfgenmsg


class Tuple(NamedTuple):
    """Where packets of one direction come from and go to; addresses are packed."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


class Connection(NamedTuple):
    """One tracked connection."""

    protocol: int
    original: Tuple
    """As its first packet was sent."""
    reply: Tuple
    """As answers are sent: from where the first packet was led to."""
    raw: bytes
    """The attributes that name it to the kernel."""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return socket.AF_INET if len(self.original.source) == 4 else socket.AF_INET6

    def is_to(self, to: Destination) -> bool:
        """Whether its first packet was sent there."""
        there = self.family, self.protocol, self.original.destination_port
        return there == (to.family, to.protocol, to.port) and (
            not to.address or to.address == self.original.destination
        )


class Destination(NamedTuple):
    """Where the first packet of some connections was sent to."""

    family: int
    """AF_INET or AF_INET6."""
    protocol: int
    address: bytes
    """Packed; empty: any."""
    port: int


def connections(
    netns: NetnsRef | None = None, to: Iterable[Destination] | None = None
) -> list[Connection]:
    """All connections of protocols with ports, or those to some destinations.

    The kernel filters (CTA_FILTER, since Linux 5.8): to read an entry here takes 15 us. An older
    one overlooks that, and lists all. Raises NetlinkError, OSError.
    """
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
    whole = [(family, b"") for family in (socket.AF_INET, socket.AF_INET6)]
    chosen = None if to is None else list(to)
    wanted = whole if chosen is None else [(one.family, _filter(one)) for one in chosen]
    found: dict[bytes, Connection] = {}
    with NetlinkSocket(netns, protocol=NETLINK_NETFILTER) as sock:
        for family, only in wanted:
            for part in sock.dump(kind, _head(family) + only, "conntrack -L"):
                if (one := _parse(part, family)) is not None:
                    found[one.raw] = one
    return [one for one in found.values() if chosen is None or any(map(one.is_to, chosen))]


def _filter(to: Destination) -> bytes:
    """Attributes that let a dump have connections to one destination only.

    An address of IPv6 is not among them: Linux (6.18, too) leaves out those that are equal, as
    `ctnetlink_filter_match_tuple` negates the comparison. They are compared here.
    """
    by_address = to.address and to.family == socket.AF_INET
    flags = _BY_PROTOCOL | _BY_PORT | (_BY_ADDRESS if by_address else 0)
    address = attr(CTA_IP_DST[to.family], to.address) if by_address else b""
    protocol = attr(CTA_PROTO_NUM, bytes((to.protocol,)))
    port = attr(CTA_PROTO_DST_PORT, to.port.to_bytes(2, "big"))
    parts = attr_nest(CTA_TUPLE_IP, address) + attr_nest(CTA_TUPLE_PROTO, protocol + port)
    only = attr(CTA_FILTER_ORIG_FLAGS, flags.to_bytes(4, sys.byteorder))
    return attr_nest(CTA_TUPLE_ORIG, parts) + attr_nest(CTA_FILTER, only)


def delete(some: Iterable[Connection], netns: NetnsRef | None = None) -> list[str]:
    """Forget connections; what has ended by itself is no error. Returns the refusals, a line each.

    Raises OSError.
    """
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    problems = []
    with NetlinkSocket(netns, protocol=NETLINK_NETFILTER) as sock:
        for one in some:
            try:
                sock.request(Request(kind, 0, _head(one.family) + one.raw), "conntrack -D")
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    problems.append(str(error))
    return problems


def _head(family: int) -> bytes:
    return bytes((family, 0, 0, 0))  # struct nfgenmsg


def _parse(part: Part, family: int) -> Connection | None:
    data, begin, end = part
    found = attributes(data, begin + _HEAD, end)
    original = _tuple(found.get(CTA_TUPLE_ORIG), family)
    reply = _tuple(found.get(CTA_TUPLE_REPLY), family)
    if original is None or reply is None:
        return None
    raw = attr_nest(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG]) + attr(CTA_ID, found.get(CTA_ID, b""))
    return Connection(original[0], original[1], reply[1], raw)


def _tuple(payload: bytes | None, family: int) -> tuple[int, Tuple] | None:
    if payload is None:
        return None
    parts = nested(payload)
    ip, ports = nested(parts.get(CTA_TUPLE_IP, b"")), nested(parts.get(CTA_TUPLE_PROTO, b""))
    try:
        number = ports[CTA_PROTO_NUM][0]
        found = Tuple(
            ip[CTA_IP_SRC[family]],
            int.from_bytes(ports[CTA_PROTO_SRC_PORT], "big"),
            ip[CTA_IP_DST[family]],
            int.from_bytes(ports[CTA_PROTO_DST_PORT], "big"),
        )
    except KeyError:
        return None  # ICMP and the like
    return number, found
