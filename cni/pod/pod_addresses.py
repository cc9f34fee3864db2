# SPDX-License-Identifier: Apache-2.0
"""The pod's end of the veth pair: brought up, with its addresses and routes, in one batch."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from cni import cidr
from cni.pod.batch import as_requests
from cni.result.model import ResultAddress, ResultRoute
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import change_link
from hostnet.kinds.route_messages import Route as KernelRoute
from hostnet.kinds.route_messages import put_routes
from hostnet.netlink.address_messages import Address, put_addresses
from hostnet.netlink.socket import NLM_F_APPEND, NLM_F_CREATE, NetlinkSocket, Request

RTPROT_BOOT = 3  # linux/rtnetlink.h: the protocol of routes that `ip route add` makes
UNMARKED = 0  # protocol of the pod's addresses: they are no business of the daemon
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253  # linux/rtnetlink.h


def configure_pod(
    pod: NetlinkSocket,
    interface: ActualLink,
    ips: Sequence[ResultAddress],
    routes: Sequence[ResultRoute],
) -> None:
    """Bring the interface up with its addresses and routes. Raises NetlinkError."""
    requests, lines = pod_requests(interface, ips, routes)
    errors = pod.execute(requests, lambda index: lines[index])
    for index in sorted(errors):
        # the kernel has made this route with an address, or it is listed twice
        if not (lines[index].startswith("ip route") and errors[index].errno == errno.EEXIST):
            raise errors[index]


def pod_requests(
    interface: ActualLink, ips: Sequence[ResultAddress], routes: Sequence[ResultRoute]
) -> tuple[list[Request], list[str]]:
    """The batch; `up` comes first, because the kernel refuses routes of a device that is down."""
    name, index = interface.name, {interface.name: interface.index}
    requests = [change_link(interface.index, up=True)]
    lines = [f"ip link set {name} up"]
    addresses = [Address(name, ip.address) for ip in ips]
    requests += as_requests(put_addresses(addresses, index, UNMARKED, replace=False))
    lines += [f"ip addr add {ip.address} dev {name}" for ip in ips]
    wanted = [kernel_route(route, name, ips) for route in routes]
    routes_added = put_routes(wanted, index, RTPROT_BOOT, {})
    requests += as_requests(routes_added._replace(flags=NLM_F_CREATE | NLM_F_APPEND))
    lines += [f"ip route add {r.destination} via {r.via} dev {name}" for r in wanted]
    return requests, lines


def kernel_route(route: ResultRoute, link: str, ips: Sequence[ResultAddress]) -> KernelRoute:
    """The kernel's form of a result's route.

    A route without a gateway gets that of the address of its family, unless its scope says
    that there is none. A gateway outside all of the pod's subnets is marked as on the link.
    """
    destination = cidr.parse_cidr(route.destination)
    own = [(cidr.parse_cidr(ip.address), ip.gateway) for ip in ips]
    via = route.gateway
    if not via and route.scope in (None, RT_SCOPE_UNIVERSE):
        via = next((g for a, g in own if a.family == destination.family and g), "")
    onlink = False
    if via:
        family, value = cidr.parse_address(via)
        target = cidr.Cidr(family, value, cidr.bits(family))
        link_local = family == 6 and value >> 118 == 0xFE80 >> 6
        onlink = not link_local and not any(a.network.contains(target) for a, _ in own)
    default_scope = RT_SCOPE_UNIVERSE if via else RT_SCOPE_LINK
    return KernelRoute(
        str(destination.network),
        link,
        via or None,
        onlink=onlink,
        metric=route.priority,
        table=route.table if route.table is not None else KernelRoute._field_defaults["table"],
        mtu=route.mtu,
        advmss=route.advmss,
        scope=route.scope if route.scope is not None else default_scope,
    )
