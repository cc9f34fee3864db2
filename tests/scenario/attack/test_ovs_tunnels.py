# SPDX-License-Identifier: Apache-2.0
"""Tunnel packets from strangers, and from a member with what is not its own: nobody gets them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_Redirect, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from hostnet.address_mac import link_local
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, host_ipv4
from ovs_mesh.tables.neighbour import ROUTER_MAC
from tests.scenario.attack.forgeries import (
    advertisement,
    arp,
    datagram,
    solicitation,
    that_reach,
    trailer,
)
from tests.scenario.attack.packets import mac_of, packet_socket
from tests.scenario.ovs_lab import KEY, backend, blocked_ports, switch, tree_is_settled

MODES = [
    backend("vxlan", "flow"),
    backend("geneve", "combined", PodAttach="obr0"),
    backend("gre", "static"),
    backend("vxlan", "static", PodAttach="obr0"),
    backend("vxlan", "static", SpanningTree="rstp"),
]
ATTACKER_MAC = "0a:58:de:ad:be:ef"
RELAYED = {"of a third host", "of a third host, IPv6", "ND: a third host's pod is me"}
"""What a member may send under a spanning tree: frames of others come over it."""


def called(config: dict[str, Any]) -> str:
    words = (config.get(key, "") for key in ("Tunnel", "Mesh", "PodAttach", "SpanningTree"))
    return " ".join(filter(None, words))


class Place:
    """Host 1 and its pod are attacked; the attacker uses the address of a member, mostly host 2.

    Under a spanning tree host 1 may take nothing from host 2; then the member is host 3.
    """

    def __init__(self, lab: Lab) -> None:
        self.config = lab.spec.backend
        pods = {pod.host: pod for pod in lab.pods}
        blocked = blocked_ports(lab, 1) if self.config.get("SpanningTree") else []
        self.member_ipv4 = next(ip for ip in map(host_ipv4, (2, 3)) if ip not in blocked)
        order = (1, 2, 3) if self.member_ipv4 == host_ipv4(2) else (1, 3, 2)
        self.pod, self.member, self.third = (pods[number] for number in order)
        self.host = lab.names.host(1)
        self.on_switch = self.config.get("PodAttach") == "obr0"
        self.bridge = "obr0" if self.on_switch else "kbr0"
        self.pod_mac = mac_of(self.pod.netns, "eth0")
        self.gateway_mac = mac_of(self.host, self.bridge)
        self.underlay_mac = mac_of(self.host, "eth0")
        self.v4, self.v6 = self.pod.addresses
        self.member4, self.member6 = self.member.addresses
        self.third4, self.third6 = self.third.addresses
        self.gateway4 = self.v4.rpartition(".")[0] + ".1"
        self.gateway6 = self.v6.rpartition("::")[0] + "::1"
        static = self.config["Mesh"] == "static"
        self.target_mac = self.pod_mac if static else ROUTER_MAC

    def tunnelled(self, name: str, inner: Packet, outer: str = "", key: int = KEY) -> bytes:
        """The frame on the underlay, from the member unless `outer` says another."""
        ether = Ether(src=ATTACKER_MAC, dst=self.underlay_mac)
        ip = ether / IP(src=outer or self.member_ipv4, dst=host_ipv4(1))
        content = Raw(bytes(inner) + trailer(name))
        if self.config["Tunnel"] == "gre":
            return bytes(ip / GRE(proto=0x6558, key_present=1, key=key) / content)
        if self.config["Tunnel"] == "geneve":
            udp = UDP(sport=4444, dport=6081, chksum=0)
            return bytes(ip / udp / GENEVE(proto=0x6558, vni=key) / content)
        udp = UDP(sport=4444, dport=4789, chksum=0)
        return bytes(ip / udp / VXLAN(vni=key, flags=8) / content)

    def harmless(self) -> Packet:
        """What a pod of the member may send to the pod."""
        return datagram(ATTACKER_MAC, self.target_mac, self.member4, self.v4)

    def forgeries(self) -> dict[str, Packet]:
        """What the member has no right to send to the pod and to host 1."""
        to = (ATTACKER_MAC, self.target_mac)
        gateway = (ATTACKER_MAC, self.gateway_mac)
        ether = Ether(src=to[0], dst=to[1])
        own6 = IPv6(src=self.member6, dst=self.v6, hlim=255)
        of_link = IPv6(src=link_local(ATTACKER_MAC), dst="ff02::1", hlim=255)
        every = Ether(src=to[0], dst="33:33:00:00:00:01")
        redirect6 = ICMPv6ND_Redirect(tgt=link_local(ATTACKER_MAC), dst=self.third6)
        redirect4 = ICMP(type=5, code=1, gw=self.member4) / IP(src=self.v4, dst=self.third4)
        broadcast = Ether(src=to[0], dst="ff:ff:ff:ff:ff:ff")
        return {
            "of a third host": datagram(*to, self.third4, self.v4),
            "of a third host, IPv6": datagram(*to, self.third6, self.v6),
            "of the pod's own subnet": datagram(*to, self.gateway4, self.v4),
            "of the pod's own subnet, IPv6": datagram(*to, self.gateway6, self.v6),
            "of the victim": datagram(*gateway, self.v4, self.gateway4),
            "of nobody": datagram(*to, "203.0.113.1", self.v4),
            "of host 1": datagram(*to, host_ipv4(1), self.v4),
            "ARP: gateway is me": arp(*to, self.gateway4, self.v4),
            "ARP: pod is me": arp(*gateway, self.v4, self.gateway4),
            "ARP request from the gateway": broadcast
            / ARP(op=1, hwsrc=to[0], psrc=self.gateway4, pdst=self.v4),
            "ND: gateway is me": advertisement(*to, self.member6, self.v6, self.gateway6),
            "ND: pod is me": advertisement(*gateway, self.member6, self.gateway6, self.v6),
            "ND: a third host's pod is me": advertisement(
                *gateway, self.member6, self.gateway6, self.third6
            ),
            "ND: a question from the gateway": solicitation(*to, self.gateway6, self.v6),
            "ND: a question from the gateway's link-local address": solicitation(
                *to, link_local(self.gateway_mac), self.v6
            ),
            "ND: a question from the pod": solicitation(*gateway, self.v6, self.gateway6),
            "router advertisement": every / of_link / ICMPv6ND_RA(routerlifetime=1800),
            "router advertisement to the pod": ether / own6 / ICMPv6ND_RA(routerlifetime=1800),
            "redirect of IPv6": ether / own6 / redirect6,
            "redirect": ether / IP(src=self.member4, dst=self.v4) / redirect4,
            "DHCP server": ether
            / IP(src=self.member4, dst=self.v4)
            / UDP(sport=67, dport=68)
            / b"offer",
            "tagged": Ether(src=to[0], dst=to[1])
            / Dot1Q(vlan=5)
            / IP(src=self.member4, dst=self.v4)
            / UDP(sport=9, dport=9),
            "another protocol": Ether(src=to[0], dst=to[1], type=0x88B5) / Raw(b"x" * 50),
        }


@pytest.mark.parametrize("config", MODES, ids=called)
def test_tunnel_brings_nothing_but_what_its_sender_owns(
    make_lab: Callable[..., Lab], config: dict[str, Any], eventually: Callable[..., None]
) -> None:
    if config["Mesh"] == "combined":
        config = {key: value for key, value in config.items() if key != "Peers"}
    lab = make_lab(hosts=3, pods_per_host=1, ipv6=True, backend=config)
    if config.get("SpanningTree"):
        eventually(lambda: tree_is_settled(lab), "the spanning tree has cut the loop", 60)
    place = Place(lab)
    frames = {name: place.tunnelled(name, frame) for name, frame in place.forgeries().items()}
    frames["from a stranger"] = place.tunnelled(
        "from a stranger", place.harmless(), f"{UNDERLAY_IPV4}.1"
    )
    frames["with another key"] = place.tunnelled("with another key", place.harmless(), key=KEY + 1)
    before = switch(lab, 1).dropped()
    with contextlib.ExitStack() as stack:
        devices = [(place.pod.netns, "eth0"), (place.host, "obr0")]
        if not place.on_switch:  # what the kernel forwards to the pod loses its trailer
            devices = [(place.host, "kbr0-obr0")]
        at = [stack.enter_context(packet_socket(*device)) for device in devices]
        wire = stack.enter_context(packet_socket(lab.names.underlay, "h1"))
        reached = that_reach(
            at, frames, wire.send, lambda name: place.tunnelled(name, place.harmless())
        )
    assert reached - (RELAYED if config.get("SpanningTree") else set()) == set()
    after = switch(lab, 1).dropped()
    reasons = {"forged", "router_claim", "dhcp_server", "tagged"}
    if config["Mesh"] != "static":
        reasons |= {"not_a_member", "wrong_key"}
    assert {reason for reason in reasons if after[reason] == before[reason]} == set()


@pytest.mark.parametrize(
    "config", [backend("vxlan", "flow"), backend("vxlan", "static")], ids=called
)
def test_tunnel_does_not_move_a_pods_mac_on_kbr0(
    make_lab: Callable[..., Lab], config: dict[str, Any], on: Callable[..., str]
) -> None:
    """A frame whose source MAC is a pod's would lead the pod's packets into the mesh."""
    lab = make_lab(hosts=3, pods_per_host=1, ipv6=True, backend=config)
    place = Place(lab)
    forged = datagram(place.pod_mac, place.gateway_mac, place.member4, place.gateway4)
    if config["Mesh"] == "flow":
        forged.dst = ROUTER_MAC
    veth = next(i["name"] for i in place.pod.result["interfaces"] if i["name"].startswith("veth"))
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(packet_socket(place.host, "kbr0-obr0"))
        wire = stack.enter_context(packet_socket(lab.names.underlay, "h1"))
        that_reach(
            [at],
            {"stolen": place.tunnelled("stolen", forged)},
            wire.send,
            lambda name: place.tunnelled(name, place.harmless()),
        )
    lines = on(place.host, "bridge fdb show br kbr0").splitlines()
    learnt = [line for line in lines if line.startswith(place.pod_mac)]
    assert [line for line in learnt if f"dev {veth} " not in line] == []
