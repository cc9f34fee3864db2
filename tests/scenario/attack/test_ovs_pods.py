# SPDX-License-Identifier: Apache-2.0
"""A pod at a port of obr0 sends what is not its own: nobody gets it, and it is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from scapy.contrib.mac_control import MACControlPause
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptPrefixInfo,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from hostnet.address_mac import link_local
from lab.cluster import Lab
from lab.hosts import host_ipv4
from tests.scenario.attack.forgeries import (
    advertisement,
    arp,
    datagram,
    named,
    solicitation,
    that_reach_each,
)
from tests.scenario.attack.packets import mac_of, packet_socket
from tests.scenario.ovs_lab import KEY, backend, switch

BAD_MAC = "0a:58:de:ad:be:ef"
MODES = [backend("vxlan", mesh, PodAttach="obr0") for mesh in ("flow", "static")]
MODES.append(backend("vxlan", "static", PodAttach="obr0", SpanningTree="rstp"))


class Place:
    """The attacker and the victims of a lab of two hosts."""

    def __init__(self, lab: Lab) -> None:
        pods = {f"h{pod.host}-{pod.name}": pod for pod in lab.pods}
        self.me, self.neighbour, self.remote = (pods[n] for n in ("h1-p1", "h1-p2", "h2-p1"))
        self.host = lab.names.host(1)
        self.mac, self.neighbour_mac = (
            mac_of(pod.netns, "eth0") for pod in (self.me, self.neighbour)
        )
        self.gateway_mac = mac_of(self.host, "obr0")
        (self.v4, self.v6), (self.neighbour4, self.neighbour6) = (
            pod.addresses for pod in (self.me, self.neighbour)
        )
        self.remote4, self.remote6 = self.remote.addresses
        self.gateway4 = self.v4.rpartition(".")[0] + ".1"
        self.gateway6 = self.v6.rpartition("::")[0] + "::1"

    def forgeries(self) -> dict[str, Any]:
        """What the pod sends to its neighbour."""
        to = (self.mac, self.neighbour_mac)
        ether = Ether(src=self.mac, dst=self.neighbour_mac)
        own6 = IPv6(src=self.v6, dst=self.neighbour6, hlim=255)
        advert = ICMPv6ND_RA(routerlifetime=1800) / ICMPv6NDOptPrefixInfo(prefix="fd66::")
        every = Ether(src=self.mac, dst="33:33:00:00:00:01")
        of_link = IPv6(src=link_local(self.mac), dst="ff02::1", hlim=255)
        redirect6 = ICMPv6ND_Redirect(tgt=link_local(self.mac), dst=self.remote6)
        redirect4 = ICMP(type=5, code=1, gw=self.v4) / IP(src=self.neighbour4, dst=self.remote4)
        offer = BOOTP(op=2, yiaddr=self.neighbour4) / DHCP(
            options=[("message-type", "offer"), "end"]
        )
        valid = datagram(*to, self.v4, self.neighbour4)
        return {
            "address of a remote pod": datagram(*to, self.remote4, self.neighbour4),
            "IPv6 address of a remote pod": datagram(*to, self.remote6, self.neighbour6),
            "gateway's address": datagram(*to, self.gateway4, self.neighbour4),
            "gateway's IPv6 address": datagram(*to, self.gateway6, self.neighbour6),
            "host's address": datagram(*to, host_ipv4(1), self.neighbour4),
            "another MAC": datagram(BAD_MAC, to[1], self.v4, self.neighbour4),
            "gateway's MAC": datagram(self.gateway_mac, to[1], self.v4, self.neighbour4),
            "ARP: gateway is me": arp(*to, self.gateway4, self.neighbour4),
            "ARP: my address has another MAC": arp(
                *to, self.v4, self.neighbour4, claimed_mac=BAD_MAC
            ),
            "ARP request from the gateway": ether
            / ARP(op=1, hwsrc=self.mac, psrc=self.gateway4, pdst=self.neighbour4),
            "ND: gateway is me": advertisement(*to, self.v6, self.neighbour6, self.gateway6),
            "ND: gateway's link-local address is me": advertisement(
                *to, link_local(self.mac), self.neighbour6, link_local(self.gateway_mac)
            ),
            "ND: a question from the gateway": solicitation(*to, self.gateway6, self.neighbour6),
            "ND: a question from another link-local address": solicitation(
                *to, link_local(self.gateway_mac), self.neighbour6
            ),
            "ND: my address has another MAC": solicitation(
                *to, self.v6, self.neighbour6, claimed_mac=BAD_MAC
            ),
            "router advertisement": every / of_link / advert,
            "router advertisement to one pod": ether / own6 / advert,
            "router advertisement behind options": ether / own6 / IPv6ExtHdrDestOpt() / advert,
            "redirect of IPv6": ether / own6 / redirect6,
            "redirect": ether / IP(src=self.v4, dst=self.neighbour4) / redirect4,
            "DHCP server": ether
            / IP(src=self.v4, dst=self.neighbour4)
            / UDP(sport=67, dport=68)
            / offer,
            "tagged": Ether(src=to[0], dst=to[1]) / Dot1Q(vlan=5) / valid.payload,
            "priority-tagged": Ether(src=to[0], dst=to[1]) / Dot1Q(vlan=0) / valid.payload,
            "tagged twice": Ether(src=to[0], dst=to[1])
            / Dot1AD(vlan=5)
            / Dot1Q(vlan=6)
            / valid.payload,
            "another protocol": ether / MACControlPause(),
            "in a tunnel to the gateway": self.encapsulated(self.gateway4, self.neighbour4),
            "in a tunnel to the host": self.encapsulated(host_ipv4(1), self.neighbour4),
        }

    def encapsulated(self, outer: str, inner: str) -> Any:
        """A tunnel packet of the pod's own address with the packet of a remote pod inside."""
        return (
            Ether(src=self.mac, dst=self.gateway_mac)
            / IP(src=self.v4, dst=outer)
            / UDP(sport=4444, dport=4789, chksum=0)
            / VXLAN(vni=KEY, flags=8)
            / datagram(BAD_MAC, self.neighbour_mac, self.remote4, inner)
        )


@pytest.mark.parametrize("config", MODES, ids=lambda c: f"{c['Mesh']} {c.get('SpanningTree', '')}")
def test_pod_on_the_switch_sends_nothing_but_its_own(
    make_lab: Callable[..., Lab],
    config: dict[str, Any],
    scrape: Callable[[Lab, int], list[str]],
) -> None:
    lab = make_lab(hosts=2, pods_per_host=2, ipv6=True, backend=config)
    place = Place(lab)
    frames = {name: named(name, frame) for name, frame in place.forgeries().items()}
    harmless = datagram(place.mac, place.neighbour_mac, place.v4, place.neighbour4)
    before = switch(lab, 1).dropped()
    with contextlib.ExitStack() as stack:
        at = [
            stack.enter_context(packet_socket(*where))
            for where in ((place.neighbour.netns, "eth0"), (place.host, "obr0"))
        ]
        out = stack.enter_context(packet_socket(place.me.netns, "eth0"))
        neighbour, host = that_reach_each(at, frames, out.send, lambda name: named(name, harmless))
    assert neighbour == set()
    # the host itself has to see datagrams to its own addresses, and looks at their ports
    assert host - {"in a tunnel to the host", "in a tunnel to the gateway"} == set()
    after = switch(lab, 1).dropped()
    for reason in ("spoofed", "router_claim", "dhcp_server", "tagged"):
        assert after[reason] > before[reason]
    who = f'container="{lab.spec.name}-h1-p1"'
    lines = [line for line in scrape(lab, 1) if "pod_refused_packets_total{" in line]
    assert [float(line.rpartition(" ")[2]) >= len(frames) for line in lines if who in line] == [
        True
    ]
