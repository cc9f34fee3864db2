# SPDX-License-Identifier: Apache-2.0
"""Matches of flows that have one form for IPv4 and one for IPv6, in ovs-fields(7) syntax."""

from __future__ import annotations

from ovs_mesh.config import IPNetwork

MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
"""Broadcast included: the group bit of the destination MAC is set."""
TAGGED = "vlan_tci=0x1000/0x1000"
"""Frames with an 802.1Q or 802.1ad tag: `ip` and `arp` would match what is behind it."""
ROUTER_CLAIMS = ("icmp6,icmp_type=134", "icmp6,icmp_type=137", "icmp,icmp_type=5")
"""Router advertisements and redirects (RFC 4861), and redirects of IPv4 (RFC 792)."""
DHCP_SERVER = ("udp,tp_src=67", "udp6,tp_src=547")
"""What a DHCP server says (RFC 2131, RFC 8415)."""
GRATUITOUS = "arp,arp_op=2,dl_dst=ff:ff:ff:ff:ff:ff"
"""An ARP reply to everybody, which nobody asked for: a new MAC of an address is announced by it."""
SOLICITATION, ADVERTISEMENT = 135, 136  # ICMPv6 types, RFC 4861
LINK_LOCAL = "fe80::/10"


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


def advertisement(network: IPNetwork | str) -> str:
    """Neighbour advertisements of an IPv6 address, or any of a network."""
    return f"icmp6,icmp_type=136,icmp_code=0,nd_target={network}"
