"""Matches of flows that have one form for IPv4 and one for IPv6, in ovs-fields(7) syntax."""

from __future__ import annotations

from ovs_mesh.config import IPNetwork

MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
"""Broadcast included: the group bit of the destination MAC is set."""


def destination(network: IPNetwork | str) -> str:
    """IP packets to a network or address: `ip,nw_dst=10.5.2.0/24`."""
    text = str(network)
    return f"ipv6,ipv6_dst={text}" if ":" in text else f"ip,nw_dst={text}"


def source(network: IPNetwork | str) -> str:
    """IP packets from a network or address."""
    text = str(network)
    return f"ipv6,ipv6_src={text}" if ":" in text else f"ip,nw_src={text}"


def question(network: IPNetwork | str) -> str:
    """ARP requests, or neighbour solicitations, for an address or any of a network."""
    text = str(network)
    if ":" in text:
        return f"icmp6,icmp_type=135,icmp_code=0,nd_target={text}"
    return f"arp,arp_tpa={text}"


def advertisement(network: IPNetwork) -> str:
    """Neighbour advertisements of an address of an IPv6 network."""
    return f"icmp6,icmp_type=136,icmp_code=0,nd_target={network}"
