# SPDX-License-Identifier: Apache-2.0
"""Routes in rtnetlink: encode and parse, fast for thousands.

Sources: rtnetlink(7), linux/rtnetlink.h. Where a route refers to a nexthop object
(`hostnet.kinds.nexthop`), `ip route` shows
`10.5.76.0/24 nhid 7 via 10.5.76.0 dev flannel.1 proto 102 onlink`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hostnet.kinds.nexthop import RTNH_F_ONLINK, NexthopKey
from hostnet.netlink.attributes import (
    ATTRIBUTE,
    U32,
    attr,
    attr_nest,
    attr_u32,
    attributes,
    nested,
    pack_address,
    u32,
    unpack_address,
)
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, RequestBatch
from hostnet.ownership import PROTOCOL

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA, RTA_NH_ID = 9, 15, 18, 30
RTAX_MTU, RTAX_ADVMSS = 2, 8
RTN_UNICAST = 1
KIND_WORDS = {6: "blackhole ", 7: "unreachable ", 8: "prohibit ", 9: "throw "}
"""RTN_*: routes that lead nowhere."""
RT_SCOPE_LINK = 253
RT_TABLE_COMPAT = 252  # what rtm_table says when the real number is in RTA_TABLE
IPV6_DEFAULT_METRIC = 1024  # IP6_RT_PRIO_USER, net/ip6_route.h

MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h

_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
# An IPv4 route by nexthop object with no other attributes, as the kernel dumps it: what
# nearly all of ours are. One unpack reads it.
_PEER_ROUTE = struct.Struct("=BBBBBBBBI II I4s II I4s II")
_PEER_ROUTE_ATTRS = tuple(
    8 | kind << 16 for kind in (RTA_TABLE, RTA_DST, RTA_NH_ID, RTA_GATEWAY, RTA_OIF)
)


class Route(NamedTuple):
    """One unicast route. `ip route replace DESTINATION via VIA dev LINK ...`."""

    destination: str
    link: str
    via: str | None = None
    onlink: bool = False
    source: str | None = None
    metric: int = 0
    """0 means the kernel's default: none for IPv4, 1024 for IPv6."""
    table: int = MAIN_TABLE
    mtu: int = 0
    """Bytes; 0 leaves it to the device."""
    advmss: int = 0
    scope: int = 0
    """0 universe, 253 link (RT_SCOPE_*)."""

    @property
    def key(self) -> tuple[str, int, int]:
        """The kernel holds one route per destination, metric and table."""
        return (self.destination, self.metric, self.table)


class Place(NamedTuple):
    """Where a route of any type stands, and whose it is."""

    key: tuple[str, int, int]
    """As `Route.key`."""
    protocol: int
    kind: int
    """RTN_*."""
    tos: int
    """Of the packets that it is for; 0: all."""

    @property
    def kind_word(self) -> str:
        """As before the destination in `ip route`: `blackhole `; empty for unicast."""
        return KIND_WORDS.get(self.kind, "")

    def route(self) -> Route:
        """As far as it is known: for one that leads nowhere, or by several next hops."""
        destination, metric, table = self.key
        return Route(destination, "", metric=metric, table=table)

    def is_preferred_to(self, key: tuple[str, int, int], came_after: bool) -> bool:
        """Whether packets take it instead of one at `key`, of the same destination and table.

        Of two IPv4 routes with one metric the first counts; `came_after`: it is the second.
        """
        mine, other = (_compared_metric(k[0], k[1]) for k in (self.key, key))
        ipv4 = ":" not in key[0]
        return mine < other or (ipv4 and mine == other and (bool(self.tos) or not came_after))


def _compared_metric(destination: str, metric: int) -> int:
    """As the kernel compares it: for IPv6, 0 in a request means 1024."""
    return metric or (IPV6_DEFAULT_METRIC if ":" in destination else 0)


def put_routes(
    routes: Iterable[Route],
    index: Mapping[str, int],
    protocol: int,
    nexthops: Mapping[NexthopKey, int],
    *,
    replace: bool = True,
) -> RequestBatch:
    """`ip route replace ...` each; by nexthop object where `nexthops` has its id.

    Without `replace` a route that is there with the same key, whoever made it, is an error
    (EEXIST).

    Raises LookupError for a link that `index` lacks, these or OSError, ValueError for a bad
    address.
    """
    bodies, pton, ipv4 = [], socket.inet_pton, socket.AF_INET
    plain = (None, 0, MAIN_TABLE, 0, 0, 0)  # all that a peer's route leaves at default
    heads = [
        _ROUTE.pack(socket.AF_INET, n, 0, 0, MAIN_TABLE, protocol, 0, RTN_UNICAST, 0)
        + ATTRIBUTE.pack(8, RTA_DST)
        for n in range(33)
    ]
    by_id = ATTRIBUTE.pack(8, RTA_NH_ID)
    for route in routes:
        nhid = nexthops.get(route[1:4], 0)
        address, _, length = route[0].partition("/")
        if nhid and ":" not in address and route[4:] == plain:
            bodies.append(heads[int(length)] + pton(ipv4, address) + by_id + U32.pack(nhid))
        else:
            bodies.append(_route(route, 0 if nhid else index[route.link], nhid, protocol))
    return RequestBatch(
        RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), bodies
    )


def delete_routes(
    routes: Iterable[Route], protocol: int = 0, index: Mapping[str, int] | None = None
) -> RequestBatch:
    """`ip route del DESTINATION metric M table T [proto P]` each.

    With `index` the device and gateway are named too, which tells plain routes to one
    destination apart but never matches a route with a nexthop object.
    """
    bodies = []
    for route in routes:
        oif = index[route.link] if index is not None else 0
        via, onlink = (route.via, route.onlink) if oif else (None, False)
        bare = Route(route.destination, "", via, onlink, None, route.metric, route.table)
        bodies.append(_route(bare, oif, 0, protocol, anything=True))
    return RequestBatch(RTM_DELROUTE, 0, bodies)


def delete_one_by_one(routes: Iterable[tuple[Route, int]]) -> RequestBatch:
    """`ip route del DESTINATION metric M table T proto P` each, with its own protocol number."""
    bodies = [
        body for route, protocol in routes for body in delete_routes([route], protocol).bodies
    ]
    return RequestBatch(RTM_DELROUTE, 0, bodies)


def _route(route: Route, oif: int, nhid: int, protocol: int, *, anything: bool = False) -> bytes:
    address, _, length = route.destination.partition("/")
    family, packed = pack_address(address)
    scope = route.scope
    if anything:
        scope = 255  # RT_SCOPE_NOWHERE in a delete: whatever scope it has
    table = route.table if route.table < 256 else RT_TABLE_COMPAT
    onlink = RTNH_F_ONLINK if route.onlink and not nhid else 0
    parts = [
        _ROUTE.pack(
            *(family, int(length), 0, 0, table, protocol, scope),
            *(0 if anything else RTN_UNICAST, onlink),
        ),
        attr(RTA_DST, packed) if int(length) else b"",
    ]
    if nhid:
        parts.append(attr_u32(RTA_NH_ID, nhid))
    else:
        if route.via is not None:
            gateway_family, gateway = pack_address(route.via)
            if gateway_family == family:
                parts.append(attr(RTA_GATEWAY, gateway))
            else:  # IPv4 over an IPv6 next hop (RFC 5549)
                parts.append(attr(RTA_VIA, struct.pack("=H", gateway_family) + gateway))
        if oif:
            parts.append(attr_u32(RTA_OIF, oif))
    if route.source is not None:
        parts.append(attr(RTA_PREFSRC, pack_address(route.source)[1]))
    if route.metric:
        parts.append(attr_u32(RTA_PRIORITY, route.metric))
    if route.table >= 256:
        parts.append(attr_u32(RTA_TABLE, route.table))
    metrics = attr_u32(RTAX_MTU, route.mtu) if route.mtu else b""
    metrics += attr_u32(RTAX_ADVMSS, route.advmss) if route.advmss else b""
    if metrics:
        parts.append(attr_nest(RTA_METRICS, metrics))
    return b"".join(parts)


def dump_routes(family: int, *, protocol: int = 0, oif: int = 0, table: int = 0) -> Request:
    """Ask for the routes of a family (AF_INET, AF_INET6), filtered by the kernel."""
    body = _ROUTE.pack(family, 0, 0, 0, table if table < 256 else 0, protocol, 0, 0, 0)
    if oif:
        body += attr_u32(RTA_OIF, oif)
    if table >= 256:
        body += attr_u32(RTA_TABLE, table)
    return Request(RTM_GETROUTE, 0, body)


def route_protocol(part: Part) -> int:
    """The protocol number in an RTM_NEWROUTE message: who made the route."""
    return part[0][part[1] + 5]


def parse_place(part: Part) -> Place:
    """Read an RTM_*ROUTE message of any type: no more than where it stands."""
    data, begin, end = part
    family, length, _, tos, table, protocol, _, kind, _ = _ROUTE.unpack_from(data, begin)
    found = attributes(data, begin + 12, end)
    anywhere = b"\0" * (4 if family == socket.AF_INET else 16)
    metric = u32(found.get(RTA_PRIORITY))
    if family == socket.AF_INET6 and metric == IPV6_DEFAULT_METRIC:
        metric = 0
    destination = f"{unpack_address(found.get(RTA_DST, anywhere))}/{length}"
    return Place((destination, metric, u32(found.get(RTA_TABLE), table)), protocol, kind, tos)


def parse_route(
    part: Part, names: Mapping[int, str], nexthops: Mapping[int, NexthopKey]
) -> tuple[Route | None, int]:
    """Read an RTM_NEWROUTE message: the route and its device's index.

    None for what is no unicast route. A multipath route has an empty link. `nexthops` by id
    are needed with net.ipv4.nexthop_compat_mode=0, where a route tells only the id.
    """
    data, begin, end = part
    if end - begin == _PEER_ROUTE.size:
        row = _PEER_ROUTE.unpack_from(data, begin)
        if row[9::2] == _PEER_ROUTE_ATTRS and row[7] == RTN_UNICAST:
            destination, via = f"{socket.inet_ntoa(row[12])}/{row[1]}", socket.inet_ntoa(row[16])
            onlink, link = bool(row[8] & RTNH_F_ONLINK), names.get(row[18], "")
            table, scope = row[10], row[6]
            return Route(destination, link, via, onlink, table=table, scope=scope), row[18]
    family, length, _, _, table, _, scope, kind, flags = _ROUTE.unpack_from(data, begin)
    if kind != RTN_UNICAST:
        return None, 0
    found = attributes(data, begin + 12, end)
    anywhere = b"\0" * (4 if family == socket.AF_INET else 16)
    gateway = found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]
    metric = u32(found.get(RTA_PRIORITY))
    if family == socket.AF_INET6 and metric == IPV6_DEFAULT_METRIC:
        metric = 0
    metrics = nested(found.get(RTA_METRICS, b""))
    device = u32(found.get(RTA_OIF))
    link = names.get(device, "")
    hop_via = unpack_address(gateway) if gateway else None
    onlink = bool(flags & RTNH_F_ONLINK)
    hop = nexthops.get(u32(found.get(RTA_NH_ID)))
    if hop is not None and not device:
        link, hop_via, onlink = hop
    source = found.get(RTA_PREFSRC)
    route = Route(
        f"{unpack_address(found.get(RTA_DST, anywhere))}/{length}",
        link,
        hop_via,
        onlink,
        unpack_address(source) if source else None,
        metric,
        u32(found.get(RTA_TABLE), table),
        u32(metrics.get(RTAX_MTU)),
        u32(metrics.get(RTAX_ADVMSS)),
        scope,
    )
    return route, device


def route_line(route: Route, *, delete: bool, marked: bool) -> str:
    """`ip route replace ...` or `ip route del ...`; `marked` with our protocol number."""
    destination = "default" if route.destination in ("0.0.0.0/0", "::/0") else route.destination
    family = "ip -6" if route.destination == "::/0" else "ip"
    words = [family, "route", "del" if delete else "replace", destination]
    if not delete or not marked:
        words += ["via", route.via] if route.via else []
        words += ["dev", route.link] if route.link else []
        words += ["onlink"] if route.onlink and not delete else []
    words += ["metric", str(route.metric)] if route.metric else []
    words += ["table", str(route.table)] if route.table != MAIN_TABLE else []
    if not delete:
        words += ["src", route.source] if route.source else []
        words += ["mtu", str(route.mtu)] if route.mtu else []
        words += ["advmss", str(route.advmss)] if route.advmss else []
        words += (
            ["scope", "link" if route.scope == RT_SCOPE_LINK else str(route.scope)]
            if route.scope
            else []
        )
    words += ["proto", str(PROTOCOL)] if marked else []
    return " ".join(words)
