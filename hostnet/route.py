"""Routes and nexthop objects in rtnetlink: encode and parse, fast for thousands.

Sources: rtnetlink(7), linux/rtnetlink.h, linux/nexthop.h.

Routes with a distinct gateway each on one device cost the kernel time quadratic in their
number: it looks for an equal nexthop in a list per device. A nexthop object (`ip nexthop`,
Linux 5.3 on) is found by its id; the route says only that. `ip route` then shows
`10.5.76.0/24 nhid 7 via 10.5.76.0 dev flannel.1 proto 102 onlink`.

Dumps are parsed by `Shape`: nearly all messages of a dump have the same attributes in the
same order, so one `struct.unpack` and one comparison of the attribute headers read them;
what has another shape takes the general way.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from hostnet.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Part,
    Request,
    attr,
    attr_nest,
    attr_u32,
    attributes,
    nested,
    pack_address,
    u32,
    unpack_address,
)
from hostnet.state import MAIN_TABLE, Nexthop, Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA, RTA_NH_ID = 9, 15, 18, 30
RTAX_MTU, RTAX_ADVMSS = 2, 8
RTN_UNICAST = 1
RTNH_F_ONLINK = 4
RT_SCOPE_LINK = 253
RT_TABLE_COMPAT = 252  # what rtm_table says when the real number is in RTA_TABLE
NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY = 1, 2, 4, 5, 6
IPV6_DEFAULT_METRIC = 1024  # IP6_RT_PRIO_USER, net/ip6_route.h

_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_NEXTHOP = struct.Struct("=BBBBI")  # struct nhmsg
_ROUTE_BY_ID = struct.Struct("=BBBBBBBBI HH4s HHI")
_NEXTHOP4 = struct.Struct("=BBBBI HHI HHI HH4s")

NexthopKey = tuple[str, str, bool]
"""Link, gateway, onlink: routes that agree in these share a nexthop object."""


class Shape:
    """A fixed header and a fixed run of attributes, read by one unpack."""

    def __init__(self, header: str, *attrs: tuple[int, str]) -> None:
        """`header` is a struct format, each attribute a type and a format of its payload."""
        fields = len(struct.unpack("=" + header, bytes(struct.calcsize("=" + header))))
        layout, expected = "=" + header, []
        for kind, payload in attrs:
            size = struct.calcsize("=" + payload)
            layout += f"I{payload}{-size & 3}x"
            expected.append(kind << 16 | 4 + size)
        packed = struct.Struct(layout)
        self.size = packed.size
        self.unpack = packed.unpack_from
        self.headers = slice(fields, None, 2)
        self.expected = tuple(expected)


_ROUTE4_NHID = Shape(
    "BBBBBBBBI",
    (RTA_TABLE, "I"),
    (RTA_DST, "4s"),
    (RTA_NH_ID, "I"),
    (RTA_GATEWAY, "4s"),
    (RTA_OIF, "I"),
)
_ROUTE4_PLAIN = Shape(
    "BBBBBBBBI", (RTA_TABLE, "I"), (RTA_DST, "4s"), (RTA_GATEWAY, "4s"), (RTA_OIF, "I")
)
_NEXTHOP4_SHAPE = Shape("BBBBI", (NHA_ID, "I"), (NHA_OIF, "I"), (NHA_GATEWAY, "4s"))


def put_routes(
    routes: Iterable[Route],
    index: Mapping[str, int],
    protocol: int,
    nexthops: Mapping[NexthopKey, int],
    *,
    flags: int = NLM_F_CREATE | NLM_F_REPLACE,
) -> list[Request]:
    """`ip route replace ...` each; by nexthop object where `nexthops` has its id.

    Raises KeyError for a link that `index` lacks.
    """
    requests, pack, inet_aton = [], _ROUTE_BY_ID.pack, socket.inet_aton
    for route in routes:
        destination, link, via, onlink, source, metric, table, mtu, advmss, scope = route
        nhid = nexthops.get((link, via, onlink), 0) if via is not None and nexthops else 0
        address, _, length = destination.partition("/")
        if (
            nhid
            and ":" not in address
            and table < RT_TABLE_COMPAT + 3
            and not (source or metric or mtu or advmss or scope)
        ):
            body = pack(
                *(socket.AF_INET, int(length), 0, 0, table, protocol, 0, RTN_UNICAST, 0),
                *(8, RTA_DST, inet_aton(address), 8, RTA_NH_ID, nhid),
            )
        else:
            body = _route(route, 0 if nhid else index[link], nhid, protocol)
        requests.append(Request(RTM_NEWROUTE, flags, body))
    return requests


def delete_routes(
    routes: Iterable[Route], protocol: int = 0, index: Mapping[str, int] | None = None
) -> list[Request]:
    """`ip route del DESTINATION metric M table T [proto P]` each.

    With `index` the device and gateway are named too, which tells plain routes to one
    destination apart but never matches a route with a nexthop object.
    """
    requests = []
    for route in routes:
        oif = index[route.link] if index is not None else 0
        bare = route if oif else route._replace(via=None, onlink=False)
        bare = bare._replace(source=None, mtu=0, advmss=0)
        body = _route(bare, oif, 0, protocol, anything=True)
        requests.append(Request(RTM_DELROUTE, 0, body))
    return requests


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


def parse_routes(
    parts: Sequence[Part],
    names: Mapping[int, str],
    nexthops: Mapping[int, Nexthop] | None = None,
    *,
    protocol: int = 0,
    other_than: AbstractSet[int] = frozenset(),
    oif: int = 0,
) -> list[Route]:
    """The unicast routes in a dump that pass the filters, which are the kernel's once more.

    `other_than` leaves out protocols. A multipath route has an empty link.
    """
    routes: list[Route] = []
    append, ntoa, onlink_flag = routes.append, socket.inet_ntoa, RTNH_F_ONLINK
    by_id, plain = _ROUTE4_NHID, _ROUTE4_PLAIN
    for part in parts:
        data, begin, end = part
        found_protocol = data[begin + 5]
        if (protocol and found_protocol != protocol) or found_protocol in other_than:
            continue
        size = end - begin
        if size == by_id.size or size == plain.size:  # noqa: PLR1714 - hot loop
            shape = by_id if size == by_id.size else plain
            values = shape.unpack(data, begin)
            if values[shape.headers] == shape.expected and values[0] == socket.AF_INET:
                if values[7] == RTN_UNICAST and not (oif and values[-1] != oif):
                    append(
                        Route(
                            f"{ntoa(values[12])}/{values[1]}",
                            names.get(values[-1], ""),
                            ntoa(values[-3]),
                            bool(values[8] & onlink_flag),
                            None,
                            0,
                            values[10],
                            0,
                            0,
                            values[6],
                        )
                    )
                continue
        route, device = _parse_route(part, names, nexthops or {})
        if route is not None and not (oif and device != oif):
            append(route)
    return routes


def _parse_route(
    part: Part, names: Mapping[int, str], nexthops: Mapping[int, Nexthop]
) -> tuple[Route | None, int]:
    data, begin, end = part
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
    via = unpack_address(gateway) if gateway else None
    onlink = bool(flags & RTNH_F_ONLINK)
    hop = nexthops.get(u32(found.get(RTA_NH_ID)))
    if hop is not None and not device:  # net.ipv4.nexthop_compat_mode=0: only the id is told
        link, via, onlink = hop.link, hop.via, hop.onlink
    source = found.get(RTA_PREFSRC)
    route = Route(
        f"{unpack_address(found.get(RTA_DST, anywhere))}/{length}",
        link,
        via,
        onlink,
        unpack_address(source) if source else None,
        metric,
        u32(found.get(RTA_TABLE), table),
        u32(metrics.get(RTAX_MTU)),
        u32(metrics.get(RTAX_ADVMSS)),
        scope,
    )
    return route, device


def parse_route(part: Part, names: Mapping[int, str]) -> tuple[Route | None, int]:
    """One route (None: no unicast route) and its protocol, from a dump or notification."""
    return _parse_route(part, names, {})[0], part[0][part[1] + 5]


def put_nexthops(
    nexthops: Iterable[Nexthop], index: Mapping[str, int], protocol: int
) -> list[Request]:
    """`ip nexthop replace id ID via VIA dev LINK [onlink] proto P` each.

    Raises KeyError for a link that `index` lacks.
    """
    requests, pack = [], _NEXTHOP4.pack
    for number, link, via, onlink in nexthops:
        flags = RTNH_F_ONLINK if onlink else 0
        if ":" in via:
            body = _NEXTHOP.pack(socket.AF_INET6, 0, protocol, 0, flags)
            body += attr_u32(NHA_ID, number) + attr_u32(NHA_OIF, index[link])
            body += attr(NHA_GATEWAY, pack_address(via)[1])
        else:
            body = pack(
                *(socket.AF_INET, 0, protocol, 0, flags, 8, NHA_ID, number),
                *(8, NHA_OIF, index[link], 8, NHA_GATEWAY, socket.inet_aton(via)),
            )
        requests.append(Request(RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, body))
    return requests


def delete_nexthops(numbers: Iterable[int]) -> list[Request]:
    """`ip nexthop del id ID` each; routes that still use one go with it."""
    head = _NEXTHOP.pack(0, 0, 0, 0, 0)
    return [Request(RTM_DELNEXTHOP, 0, head + attr_u32(NHA_ID, n)) for n in numbers]


def dump_nexthops() -> Request:
    """Ask for all nexthop objects. EOPNOTSUPP: the kernel has none."""
    return Request(RTM_GETNEXTHOP, 0, _NEXTHOP.pack(0, 0, 0, 0, 0))


def parse_nexthops(
    parts: Sequence[Part], names: Mapping[int, str], protocol: int
) -> tuple[list[Nexthop], set[int]]:
    """Our nexthop objects in a dump, and the ids of all."""
    ours: list[Nexthop] = []
    numbers: set[int] = set()
    shape = _NEXTHOP4_SHAPE
    for data, begin, end in parts:
        if end - begin == shape.size:
            values = shape.unpack(data, begin)
            if values[shape.headers] == shape.expected:
                numbers.add(values[6])
                if values[2] == protocol:
                    link, via = names.get(values[8], ""), socket.inet_ntoa(values[10])
                    ours.append(Nexthop(values[6], link, via, bool(values[4] & RTNH_F_ONLINK)))
                continue
        _, _, found_protocol, _, flags = _NEXTHOP.unpack_from(data, begin)
        found = attributes(data, begin + 8, end)
        number = u32(found.get(NHA_ID))
        numbers.add(number)
        if found_protocol == protocol:
            via = unpack_address(found[NHA_GATEWAY]) if NHA_GATEWAY in found else ""
            link = names.get(u32(found.get(NHA_OIF)), "")
            ours.append(Nexthop(number, link, via, bool(flags & RTNH_F_ONLINK)))
    return ours, numbers


def is_main(route: Route) -> bool:
    """Whether `ip route` shows it without asking for a table."""
    return route.table == MAIN_TABLE
