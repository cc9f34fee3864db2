# SPDX-License-Identifier: Apache-2.0
"""Tracked connections: list them, delete some (linux/netfilter/nfnetlink_conntrack.h).

Only those of protocols with ports are read. A deletion names both the connection and its id, so
that one that was made anew meanwhile under the same addresses is left alone.
"""

from __future__ import annotations

import errno
import socket
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


def connections(netns: NetnsRef | None = None) -> list[Connection]:
    """All connections of protocols with ports. Raises NetlinkError, OSError."""
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
    found: list[Connection] = []
    with NetlinkSocket(netns, protocol=NETLINK_NETFILTER) as sock:
        for family in (socket.AF_INET, socket.AF_INET6):
            parts = sock.dump(kind, _head(family), "conntrack -L")
            found += (one for part in parts if (one := _parse(part, family)) is not None)
    return found


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
