# SPDX-License-Identifier: Apache-2.0
"""Forged tunnel packets reach no pod; pods reach no closed port of hosts.

Each attack is sent as real packets; `tests.scenario.attack.tunnel_room` makes them.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from lab import processes
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4
from tests.scenario.attack.packets import packet_socket, send_frames
from tests.scenario.attack.tunnel_room import (
    ETCD,
    METRICS,
    METRICS_FLAGS,
    SCHEDULER,
    Room,
    connects,
    listening,
    send_datagram,
)
from tests.scenario.conftest import running_lab

BACKENDS: list[dict[str, Any]] = [
    {"Type": "vxlan"},
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
]


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend["Type"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """Two hosts with two pods each, and daemons whose metrics listen everywhere."""
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=2, ipv6=True, backend=request.param) as lab:
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            lab.start_daemon(number, *METRICS_FLAGS)
        for number in lab.host_numbers:
            lab.wait_ready(number)
        yield lab


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def room(shared: Lab, request: pytest.FixtureRequest) -> Room:
    return Room(shared, request.param)


def test_stranger_on_the_underlay_reaches_no_pod(room: Room) -> None:
    victim, friend, peer = room.pod(2, "p1"), room.pod(2, "p2"), room.pod(1, "p1")
    free = "10.5.0.250" if room.family == 4 else "fd05:0:0:ffff::250"
    frames = []
    with room.nothing_arrives(victim, peer):
        for source in {room.address(friend), free}:
            inner = room.datagram(f"without a tunnel, from {source}", source, victim)
            frames.append(room.frame(2, inner))
        if room.backend != "host-gw":  # where pods' packets are on the underlay as they are
            source = room.address(peer)
            frames.append(room.frame(2, room.datagram("without a tunnel", source, victim)))
        if room.backend in ("vxlan", "udp"):
            inner = room.datagram("tunnel packet of a stranger", room.address(peer), victim)
            frames.append(room.encapsulated(room.host(0, room.outer_family), 2, inner))
        send_frames(room.lab.names.underlay, "br0", frames)
    dropped = room.dropped(2)
    assert dropped["plain_pod_source"] >= 2
    if room.backend in ("vxlan", "udp"):
        assert dropped["not_a_member"] >= 1


def test_member_sends_only_from_its_own_lease(room: Room) -> None:
    if room.backend not in ("vxlan", "udp"):
        pytest.skip("what a member may send there is bound to its route or its key")
    victim, friend, peer = room.pod(2, "p1"), room.pod(2, "p2"), room.pod(1, "p1")
    with room.nothing_arrives(victim, peer):
        inner = room.datagram("inner source of another lease", room.address(friend), victim)
        frames = [room.encapsulated(room.host(1, room.outer_family), 2, inner)]
        if room.backend == "vxlan":
            arp = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=room.pod(1, "p1").addresses[0])
            packet = VXLAN(vni=1, flags=8) / arp
            header = IP if room.family == 4 else IPv6
            outer = header(src=room.host(1), dst=room.host(2)) / UDP(sport=9, dport=8472)
            frames.append(room.frame(2, outer / packet))
        send_frames(room.lab.names.host(1), "eth0", frames)
    if room.backend == "vxlan":
        assert room.dropped(2)["wrong_inner_source"] >= 1
        assert room.dropped(2)["not_ip"] >= 1


def test_hosts_and_their_pods_with_true_sources_are_let_in(room: Room) -> None:
    """The same packets as the attacks', from a member and with its own inner sources."""
    if room.backend != "vxlan":
        pytest.skip("covered by the matrix of test_pods_reach_each_other")
    victim, peer = room.pod(2, "p1"), room.pod(1, "p1")
    base = room.address(peer).rpartition("." if room.family == 4 else ":")[0]
    sources = [room.address(peer), f"{base}.0" if room.family == 4 else f"{base}:", room.host(1)]
    with packet_socket(victim.netns, "eth0") as sock:
        room.sent.clear()
        send_frames(
            room.lab.names.host(1),
            "eth0",
            [room.encapsulated(room.host(1), 2, room.datagram(s, s, victim)) for s in sources],
        )
        seen = room.contents_until_control(sock, victim, peer)
    assert {room.sent[content] for content in seen} == set(sources)


def test_fragments_hide_no_inner_source(room: Room) -> None:
    if room.backend != "vxlan":
        pytest.skip("the process of udp gets whole datagrams only")
    victim, friend, peer = room.pod(2, "p1"), room.pod(2, "p2"), room.pod(1, "p1")
    with room.nothing_arrives(victim, peer):
        inner = room.datagram("inner source in the second fragment", room.address(friend), victim)
        whole = room.encapsulated(room.host(1), 2, inner)
        if room.family == 4:
            frames = [room.frame(2, part) for part in fragment(whole[IP], fragsize=32)]
        else:
            outer = whole[IPv6]
            datagram = bytes(outer.payload)
            head = IPv6(src=outer.src, dst=outer.dst)
            # UDP, VXLAN and Ethernet are 30 bytes; the inner source comes after 8 more
            frames = [
                room.frame(2, head / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=more, id=7) / part)
                for at, more, part in ((0, 1, Raw(datagram[:32])), (32, 0, Raw(datagram[32:])))
            ]
        send_frames(room.lab.names.host(1), "eth0", frames)


def test_drops_are_counted_by_reason(shared: Lab) -> None:
    url = f"http://127.0.0.1:{METRICS}/metrics"
    get = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    argv = [*processes.enter(shared.names.host(2)), sys.executable, "-c", get]
    page = subprocess.check_output(argv, text=True)
    counted = dict(re.findall(r'flatmesh_dropped_packets_total{reason="(\w+)"} (\d+)', page))
    assert int(counted["plain_pod_source"]) > 0


def test_pod_reaches_no_tunnel_port(room: Room) -> None:
    if room.backend == "host-gw":
        pytest.skip("there is no tunnel")
    attacker = room.pod(1, "p1")
    for target, victim in ((1, room.pod(1, "p2")), (2, room.pod(2, "p2"))):
        before = room.dropped(1)["pod_to_tunnel"]
        with room.nothing_arrives(victim, attacker):
            # of the lease that the outer source holds, after masquerading
            source = room.address(room.pod(1, "p2" if target == 2 else "p1"))
            inner = room.datagram(f"tunnel packet of a pod to host {target}", source, victim)
            send_datagram(room, attacker, room.host(target, room.outer_family), inner, target)
        assert room.dropped(1)["pod_to_tunnel"] > before


def reached(room: Room, timeout: float) -> list[str]:
    """The services of hosts that a pod of host 1 reaches, of those closed to it."""
    lab, pod = room.lab, room.pod(1, "p1")
    places = {f"metrics of host {n}": (room.host(n), METRICS) for n in (1, 2)}
    places |= {f"scheduler of host {n}": (room.host(n), SCHEDULER) for n in (1, 2)}
    if room.family == 4:  # the address by which the lab's daemons know it
        places["etcd"] = (room.host(0), ETCD)
    with contextlib.ExitStack() as stack:
        for number in (1, 2):
            host = lab.names.host(number)
            stack.enter_context(listening(host, room.family, SCHEDULER))
            if room.family == 6:  # the daemon's server has IPv4 only
                stack.enter_context(listening(host, 6, METRICS))
        return [
            what
            for what, (address, port) in places.items()
            if connects(pod.netns, address, port, timeout)
        ]


def test_pod_reaches_no_tunnel_at_a_hosts_other_address(room: Room, on: Callable[..., str]) -> None:
    """Which no lease tells, so that the pod's own host can't know it."""
    if room.backend != "vxlan":
        pytest.skip("udp listens at its own address only")
    other = "192.168.65.2" if room.family == 4 else "fd00:2::2"
    first, second = room.lab.names.host(1), room.lab.names.host(2)
    attacker, victim = room.pod(1, "p1"), room.pod(2, "p2")
    on(second, f"ip addr add {other} dev lo")
    on(first, f"ip -{room.family} route add {other} via {room.host(2)}")
    try:
        with room.nothing_arrives(victim, attacker):
            inner = room.datagram("tunnel packet of a pod", room.address(room.pod(1, "p2")), victim)
            send_datagram(room, attacker, other, inner, 2)
    finally:
        on(first, f"ip -{room.family} route del {other}")
        on(second, f"ip addr del {other} dev lo")
    assert room.dropped(2)["not_tunnel_end"] >= 1


def test_pod_reaches_neither_etcd_nor_metrics_nor_the_scheduler(room: Room) -> None:
    if room.backend not in ("vxlan", "host-gw"):
        pytest.skip("the rules are the same")
    assert reached(room, 0.15) == []
    dropped = room.dropped(1)
    assert all(dropped[f"pod_to_{name}"] >= 2 for name in ("metrics", "scheduler"))
    assert dropped["pod_to_etcd"] >= 1 or room.family == 6


def test_a_pods_own_service_on_a_closed_port_is_reached(room: Room) -> None:
    if room.backend != "vxlan":
        pytest.skip("the rules are the same")
    server, client = room.pod(2, "p1"), room.pod(1, "p1")
    with listening(server.netns, room.family, ETCD):
        assert connects(client.netns, room.address(server), ETCD, 5)
        assert connects(room.lab.names.host(1), room.address(server), ETCD, 5)


def test_icmp_errors_of_the_other_host_arrive(room: Room, on: Callable[..., str]) -> None:
    sender, receiver = room.pod(1, "p1"), room.pod(2, "p1")
    # the first host counts down to 1, the second to 0
    text = on(sender.netns, f"ping -n -c 1 -W 5 -t 2 {room.address(receiver)}", check=False)
    assert "Time to live exceeded" in text or "Hop limit" in text
    host = room.lab.names.host(2)
    family = f"-{room.family}"
    route = f"{room.address(receiver)} dev kbr0 mtu lock 1300"
    on(host, f"ip {family} route add {route}")
    try:
        size = 1400 - 48
        text = on(
            sender.netns, f"ping -n -c 1 -W 5 -M do -s {size} {room.address(receiver)}", check=False
        )
    finally:
        on(host, f"ip {family} route del {route}")
    assert "mtu = 1300" in text or "mtu=1300" in text


def test_a_peer_that_moves_to_another_address_is_let_in_from_there_only(
    shared: Lab, on: Callable[..., str], eventually: Callable[..., None]
) -> None:
    room = Room(shared)
    if room.backend not in ("vxlan", "udp"):
        pytest.skip("nothing compares the address")
    host, moved = shared.names.host(1), f"{UNDERLAY_IPV4}.99"
    sender, receiver = room.pod(1, "p1"), room.pod(2, "p1")

    def members() -> bool:
        listed = on(shared.names.host(2), "nft list set inet flatmesh members4")
        return (moved in listed) and (room.host(1) not in listed)

    on(host, f"ip addr add {moved}/24 dev eth0")
    shared.stop_daemon(1)
    shared.start_daemon(1, f"--public-ip={moved}", *METRICS_FLAGS)
    try:
        shared.wait_ready(1)
        eventually(members, "the peer's new address is the member's")
        on(sender.netns, f"ping -n -c 1 -W 5 {receiver.addresses[0]}")
    finally:
        shared.stop_daemon(1)
        on(host, f"ip addr del {moved}/24 dev eth0")
        shared.start_daemon(1, *METRICS_FLAGS)
        shared.wait_ready(1)
    eventually(lambda: not members(), "the peer is back at its address")
    on(sender.netns, f"ping -n -c 1 -W 5 {room.pod(2, 'p1').addresses[0]}")


def test_what_the_config_opens_to_pods_is_reached(
    shared: Lab, eventually: Callable[..., None]
) -> None:
    room = Room(shared)
    if room.backend != "vxlan":
        pytest.skip("the rules are the same")
    config = shared.spec.cluster_config()
    shared.configure({**config, "OpenToPods": ["etcd", "metrics", "scheduler", "udp/8472"]})
    try:
        eventually(lambda: len(reached(room, 1.0)) == 5, "all is open")
        before = room.dropped(1)["pod_to_tunnel"]
        send_datagram(room, room.pod(1, "p1"), room.host(2), IP(), 2)
        assert room.dropped(1)["pod_to_tunnel"] == before
    finally:
        shared.configure(config)
    eventually(lambda: reached(room, 0.15) == [], "all is closed again")


def test_the_filter_that_somebody_emptied_is_made_again(
    shared: Lab, on: Callable[..., str], eventually: Callable[..., None]
) -> None:
    room = Room(shared)
    if room.backend != "vxlan":
        pytest.skip("the table is the same")
    host = shared.names.host(2)
    before = on(host, "nft -s list table inet flatmesh")
    for command in (
        "flush set inet flatmesh vxlan4_24",
        "flush chain inet flatmesh input",
        "flush table inet flatmesh",
        "delete table inet flatmesh",
    ):
        on(host, f"nft {command}")
        eventually(
            lambda: on(host, "nft -s list table inet flatmesh", check=False) == before,
            f"all is back after nft {command}",
        )
