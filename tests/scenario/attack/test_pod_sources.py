# SPDX-License-Identifier: Apache-2.0
"""A pod that forges: addresses of others, ARP, neighbour discovery, and what only routers send.

Every pod is guarded by the same table on its host, whatever carries packets to other hosts. So one
backend stands for all that use kbr0, and `ovs` on kbr0 for the way through the switch beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lab.cluster import Lab
from lab.spec import LabPod
from tests.scenario.attack.packets import (
    BROADCAST,
    arrives,
    mac_of,
    packet_socket,
    send_frames,
)
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
MARK = b"forged by a test"
CONTROL = b"sent by the pod itself"
EVIL = "02:66:66:66:66:66"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"


@pytest.fixture(scope="module", params=["vxlan", "ovs"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    backend = {"Type": request.param}
    if request.param == "ovs":
        backend["PodAttach"] = "kbr0"
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(
        request.config, directory, hosts=1, pods_per_host=2, ipv6=True, backend=backend
    ) as made:
        yield made


class Attack:
    """One pod attacks another one of its host."""

    def __init__(self, lab: Lab) -> None:
        self.attacker, self.victim = (pod for pod in lab.pods if pod.host == 1)
        self.host = lab.names.host(1)
        self.mac = mac_of(self.attacker.netns, "eth0")
        self.victim_mac = mac_of(self.victim.netns, "eth0")
        self.gateway_mac = mac_of(self.host, "kbr0")

    def address(self, pod: LabPod, family: int) -> str:
        return next(a for a in pod.addresses if (":" in a) == (family == 6))

    def passes(self, frame: Packet, at: str, device: str) -> bool:
        """Whether a frame comes through; one that may pass is sent behind it, and must."""
        family = 6 if IPv6 in frame else 4
        mine = IPv6 if family == 6 else IP
        control = (
            Ether(src=self.mac, dst=frame[Ether].dst)
            / mine(src=self.address(self.attacker, family), dst=self.address(self.victim, family))
            / UDP(sport=9, dport=9)
            / Raw(CONTROL)
        )
        wire = bytes(frame)
        forged = False

        def wanted(seen: bytes) -> bool:
            nonlocal forged
            forged |= seen.rstrip(b"\0") == wire.rstrip(b"\0")
            return CONTROL in seen

        with packet_socket(at, device) as sock:
            send_frames(self.attacker.netns, "eth0", [frame, control])
            assert arrives(sock, wanted, 5), "the frame that may pass has not arrived"
        return forged


@pytest.fixture
def attack(lab: Lab) -> Attack:
    return Attack(lab)


def forged_frames(a: Attack) -> dict[str, Packet]:
    """Frames that must not reach the other pod."""
    own4, own6 = a.address(a.attacker, 4), a.address(a.attacker, 6)
    other4, other6 = a.address(a.victim, 4), a.address(a.victim, 6)
    gateway4 = own4.rpartition(".")[0] + ".1"
    to = {"src": a.mac, "dst": a.victim_mac}
    everybody = {"src": a.mac, "dst": BROADCAST}
    udp = UDP(sport=7, dport=7) / Raw(MARK)
    link_local = "fe80::66:66ff:fe66:6666"
    return {
        "IPv4 of the gateway": Ether(**to) / IP(src=gateway4, dst=other4) / udp,
        "IPv4 from elsewhere": Ether(**to) / IP(src="198.51.100.7", dst=other4) / udp,
        "IPv4 of the receiver": Ether(**to) / IP(src=other4, dst=other4) / udp,
        "IPv6 from elsewhere": Ether(**to) / IPv6(src="2001:db8::7", dst=other6) / udp,
        "IPv6 of the receiver": Ether(**to) / IPv6(src=other6, dst=other6) / udp,
        "IPv6 link-local": Ether(**to) / IPv6(src=link_local, dst=other6) / udp,
        "IPv6 unspecified": Ether(**to) / IPv6(src="::", dst=other6) / udp,
        "MAC": Ether(src=EVIL, dst=a.victim_mac) / IP(src=own4, dst=other4) / udp,
        "MAC of the gateway": (
            Ether(src=a.gateway_mac, dst=a.victim_mac) / IP(src=own4, dst=other4) / udp
        ),
        "ARP reply for the gateway": (
            Ether(**to) / ARP(op=2, hwsrc=a.mac, psrc=gateway4, hwdst=a.victim_mac, pdst=other4)
        ),
        "ARP announcement of the gateway": (
            Ether(**everybody) / ARP(op=1, hwsrc=a.mac, psrc=gateway4, pdst=gateway4)
        ),
        "ARP with another MAC": (
            Ether(**everybody) / ARP(op=2, hwsrc=EVIL, psrc=own4, hwdst=BROADCAST, pdst=own4)
        ),
        "ARP probe of another": (
            Ether(**everybody) / ARP(op=1, hwsrc=a.mac, psrc="0.0.0.0", pdst=other4)
        ),
        "ND advertisement of another": (
            Ether(**to)
            / IPv6(src=own6, dst=other6)
            / ICMPv6ND_NA(tgt=other6, R=0, S=1, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=a.mac)
        ),
        "ND solicitation from another": (
            Ether(src=a.mac, dst="33:33:ff:00:00:01")
            / IPv6(src=other6, dst="ff02::1:ff00:1")
            / ICMPv6ND_NS(tgt=own6)
            / ICMPv6NDOptSrcLLAddr(lladdr=a.mac)
        ),
        "DAD of another's address": (
            Ether(src=a.mac, dst="33:33:ff:00:00:01")
            / IPv6(src="::", dst="ff02::1:ff00:1")
            / ICMPv6ND_NS(tgt=other6)
        ),
        "tagged": Ether(**to) / Dot1Q(vlan=7) / IP(src="198.51.100.7", dst=other4) / udp,
        "another protocol": Ether(**to, type=0x88CC) / Raw(MARK * 4),
    }


def routers_frames(a: Attack) -> dict[str, Packet]:
    """Frames that only routers and DHCP servers send: refused from every pod."""
    own4, own6 = a.address(a.attacker, 4), a.address(a.attacker, 6)
    other4, other6 = a.address(a.victim, 4), a.address(a.victim, 6)
    own_link_local = link_local_of(a.mac)
    to = {"src": a.mac, "dst": a.victim_mac}
    return {
        "router advertisement": router_advertisement(a.mac, own_link_local),
        "ICMPv6 redirect": (
            Ether(**to)
            / IPv6(src=own_link_local, dst=other6)
            / ICMPv6ND_Redirect(tgt=own_link_local, dst="2001:db8::1")
        ),
        "ICMP redirect": (
            Ether(**to)
            / IP(src=own4, dst=other4)
            / ICMP(type=5, code=1, gw=own4)
            / IP(src=other4, dst="198.51.100.7")
            / UDP(sport=1, dport=1)
        ),
        "DHCP offer": (
            Ether(src=a.mac, dst=BROADCAST)
            / IP(src=own4, dst="255.255.255.255")
            / UDP(sport=67, dport=68)
            / BOOTP(op=2)
            / DHCP(options=[("message-type", "offer"), "end"])
        ),
        "DHCPv6 advertisement": (
            Ether(**to) / IPv6(src=own6, dst=other6) / UDP(sport=547, dport=546) / Raw(b"\2abc")
        ),
    }


def router_advertisement(mac: str, source: str) -> Packet:
    return (
        Ether(src=mac, dst=ALL_NODES_MAC)
        / IPv6(src=source, dst=ALL_NODES, hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800, prf=1)
        / ICMPv6NDOptSrcLLAddr(lladdr=mac)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:66::", prefixlen=64, L=1, A=1)
    )


def link_local_of(mac: str) -> str:
    """The link-local address that a kernel makes of a MAC (RFC 4291, appendix A)."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    octets = bytes((first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]))
    return str(IPv6Address(bytes.fromhex("fe80000000000000") + octets))


def test_nothing_forged_arrives(attack: Attack) -> None:
    frames = {**forged_frames(attack), **routers_frames(attack)}
    passed = [
        name for name, frame in frames.items() if attack.passes(frame, attack.victim.netns, "eth0")
    ]
    assert passed == []


def test_nothing_forged_reaches_the_host(attack: Attack, on: On) -> None:
    """The gateway learns no wrong neighbour, and the host takes no route."""
    own4 = attack.address(attack.attacker, 4)
    before = on(attack.host, "ip -6 route show")
    other4, other6 = attack.address(attack.victim, 4), attack.address(attack.victim, 6)
    frames = [
        Ether(src=attack.mac, dst=attack.gateway_mac)
        / ARP(op=2, hwsrc=attack.mac, psrc=other4, hwdst=attack.gateway_mac, pdst=own4),
        Ether(src=attack.mac, dst=attack.gateway_mac)
        / IPv6(src=attack.address(attack.attacker, 6), dst=other6.rpartition(":")[0] + ":1")
        / ICMPv6ND_NA(tgt=other6, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=attack.mac),
        routers_frames(attack)["router advertisement"],
    ]
    for pod in (attack.victim, attack.attacker):
        for address in pod.addresses:
            on(attack.host, f"ping -c 1 -W 2 {address}")
    passed = [str(f.summary()) for f in frames if attack.passes(f, attack.host, "kbr0")]
    assert passed == []
    neighbours = {
        entry["dst"]: entry.get("lladdr")
        for entry in json.loads(on(attack.host, "ip -json neigh show dev kbr0"))
    }
    assert neighbours[other4] == attack.victim_mac
    assert neighbours[other6] == attack.victim_mac
    assert on(attack.host, "ip -6 route show") == before


def test_what_a_pod_may_send_arrives(attack: Attack, on: On, eventually: Eventually) -> None:
    own4, own6 = attack.address(attack.attacker, 4), attack.address(attack.attacker, 6)
    mac, netns = attack.mac, attack.victim.netns
    frames = {
        "ARP announcement": Ether(src=mac, dst=BROADCAST)
        / ARP(op=1, hwsrc=mac, psrc=own4, pdst=own4),
        "ARP probe": Ether(src=mac, dst=BROADCAST)
        / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", pdst=own4),
        "ND announcement": Ether(src=mac, dst=ALL_NODES_MAC)
        / IPv6(src=own6, dst=ALL_NODES, hlim=255)
        / ICMPv6ND_NA(tgt=own6, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac),
        "DHCP discover": Ether(src=mac, dst=BROADCAST)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(op=1)
        / DHCP(options=[("message-type", "discover"), "end"]),
    }
    missing = [name for name, frame in frames.items() if not attack.passes(frame, netns, "eth0")]
    assert missing == []
    on(attack.attacker.netns, "ip addr add fd05:dead::1/128 dev eth0")  # an address not of its own
    on(attack.attacker.netns, "ip addr del fd05:dead::1/128 dev eth0")
    for pod, other in ((attack.attacker, attack.victim), (attack.victim, attack.attacker)):
        for address in other.addresses:
            on(pod.netns, "ip neigh flush dev eth0")
            eventually(
                lambda p=pod, a=address: (
                    "1 received" in on(p.netns, f"ping -c 1 -W 2 {a}", check=False)
                ),
                "pods reach each other",
            )


def test_the_guard_is_repaired(lab: Lab, attack: Attack, on: On, eventually: Eventually) -> None:
    forged = forged_frames(attack)["IPv4 from elsewhere"]
    for damage in (
        "nft flush ruleset",
        "nft flush set bridge flatmesh_guard ports",
        "nft flush chain bridge flatmesh_guard prerouting",
        "nft delete table bridge flatmesh_guard",
    ):
        before = on(attack.host, "nft -s list table bridge flatmesh_guard")
        on(attack.host, damage)
        eventually(
            lambda b=before: (
                on(attack.host, "nft -s list table bridge flatmesh_guard", check=False) == b
            ),
            f"{damage} is repaired",
        )
        assert not attack.passes(forged, attack.victim.netns, "eth0")
    list_all = "nft -s list table bridge flatmesh_guard"
    before = on(attack.host, list_all)
    lab.add_pod(1, "gone")
    assert on(attack.host, list_all) != before
    lab.delete_pod(1, "gone")
    eventually(lambda: on(attack.host, list_all) == before, "nothing of the pod is left")


def test_refused_packets_are_counted_by_pod(
    lab: Lab, attack: Attack, scrape: Callable[[Lab, int], list[str]]
) -> None:
    name = f'container="{lab.spec.name}-h1-{attack.attacker.name}"'

    def count() -> float:
        lines = scrape(lab, 1)
        found = [line for line in lines if "pod_refused_packets" in line and name in line]
        return float(found[0].rpartition(" ")[2])

    before = count()
    forged = forged_frames(attack)["IPv4 from elsewhere"]
    for _ in range(3):
        assert not attack.passes(forged, attack.victim.netns, "eth0")
    assert count() >= before + 3


def test_a_network_without_the_check_still_has_no_routers(
    make_lab: Callable[..., Lab], on: On
) -> None:
    """`spoofCheck: false`, in the default config: IPv4 only, where the kernel still speaks IPv6."""
    lab = make_lab(hosts=1, pods_per_host=0)
    for plugin in lab.conflist["plugins"]:
        if plugin["type"] == "flatmesh":
            plugin["spoofCheck"] = False
    for name in ("p1", "p2"):
        lab.add_pod(1, name)
    attack = Attack(lab)
    source, target = (attack.address(pod, 4) for pod in (attack.attacker, attack.victim))
    control = Ether(src=attack.mac, dst=BROADCAST) / IP(src=source, dst=target) / UDP() / CONTROL
    spoofed = Ether(src=EVIL, dst=BROADCAST) / IP(src="198.51.100.7", dst=target) / UDP() / MARK
    advertisement = router_advertisement(attack.mac, link_local_of(attack.mac))
    with (
        packet_socket(attack.victim.netns, "eth0") as victim,
        packet_socket(attack.host, "kbr0") as host,
    ):
        tagged = Ether(src=attack.mac, dst=ALL_NODES_MAC) / Dot1Q(vlan=0) / advertisement.payload
        send_frames(attack.attacker.netns, "eth0", [advertisement, tagged, spoofed, control])
        for sock in (victim, host):
            seen: list[bytes] = []
            assert arrives(sock, lambda f, s=seen: s.append(f) or CONTROL in f, 5)  # type: ignore[misc]
            assert any(MARK in frame for frame in seen)
            assert not any(bytes(advertisement)[14:] in frame for frame in seen)
    for netns in (attack.host, attack.victim.netns):
        assert "2001:db8:66::" not in on(netns, "ip -6 route show table all")
        assert "2001:db8:66:" not in on(netns, "ip -6 addr show")


def test_devices_take_no_routes_by_themselves(lab: Lab, on: On, eventually: Eventually) -> None:
    """Behind the guard's table there is a second line: the sysctls of every device."""
    host, pod = lab.names.host(1), lab.pods[0]
    changed = {"accept_ra": "2", "accept_redirects": "1", "proxy_ndp": "1"}
    read = [f"sysctl -n net.ipv6.conf.kbr0.{name}" for name in changed]
    assert [on(host, command).strip() for command in read] == ["0", "0", "0"]
    for name, value in changed.items():
        on(host, f"sysctl -q -w net.ipv6.conf.kbr0.{name}={value}")
    eventually(
        lambda: [on(host, command).strip() for command in read] == ["0", "0", "0"],
        "they are put back",
    )
    for name in ("accept_redirects", "send_redirects", "proxy_arp"):
        assert on(host, f"sysctl -n net.ipv4.conf.kbr0.{name}").strip() == "0"
    for path in ("ipv6.conf.eth0.accept_ra", "ipv4.conf.eth0.accept_redirects"):
        assert on(pod.netns, f"sysctl -n net.{path}").strip() == "0"
    for link in json.loads(on(host, "ip -json link show type veth")):
        if link["ifname"].startswith("veth"):
            path = f"net.ipv6.conf.{link['ifname']}.accept_ra"
            assert on(host, f"sysctl -n {path}").strip() == "0"
