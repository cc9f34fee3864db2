# SPDX-License-Identifier: Apache-2.0
"""Which networks this host uses itself, beside the overlay: its addresses, and others' routes."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import NamedTuple

from hostnet.kernel import Kernel
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.route_messages import MAIN_TABLE, dump_routes, parse_route, route_protocol
from hostnet.netlink.buffers import parts_of
from hostnet.ownership import LINK_ALIAS, OVERLAY_KINDS


class Occupied(NamedTuple):
    """One network in use."""

    network: IPv4Network | IPv6Network
    text: str
    """What uses it, for people: `address 172.17.0.1 of docker0`."""
    via: str = ""
    """The gateway of a route; empty for an address and for a connected route."""
    is_route: bool = False


def read_occupied(kernel: Kernel) -> tuple[Occupied, ...]:
    """Read addresses, and the main table's unicast routes and gateways, without what is ours.

    Ours is what bears a mark of ours (`hostnet.ownership`), and what is on a device that does, or
    on one of an overlay's kind: a flanneld's whose place we take. Raises NetlinkError.
    """
    ours = {link.name for link in kernel.links() if _is_ours(link)}
    found: dict[Occupied, None] = {}
    for each in kernel.addresses():
        address = each.address
        if address.link not in ours:
            ip = ip_interface(address.address).ip
            text = f"address {ip} of {address.link}"
            found[Occupied(ip_network(ip), text)] = None
    for family in (socket.AF_INET, socket.AF_INET6):
        buffers = kernel.socket.dump_what_there_is(dump_routes(family), "ip route show table all")
        for part in (part for data in buffers for part in parts_of(data)):
            if route_protocol(part) == kernel.mark.protocol:
                continue
            route, _ = parse_route(part, kernel.names, {})
            if route is None or route.table != MAIN_TABLE or route.link in ours:
                continue
            network = ip_network(route.destination)
            gateway = ip_address(route.via) if route.via else None
            if gateway is not None and not gateway.is_link_local:
                found[Occupied(ip_network(gateway), f"gateway {gateway} of a route")] = None
            if network.prefixlen:
                via = f" via {route.via}" if route.via else ""
                text = f"route {network}{via} dev {route.link or '?'}"
                found[Occupied(network, text, route.via or "", is_route=True)] = None
    return tuple(found)


def _is_ours(link: ActualLink) -> bool:
    return link.alias.startswith(LINK_ALIAS) or link.kind in OVERLAY_KINDS
