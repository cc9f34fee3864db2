# SPDX-License-Identifier: Apache-2.0
"""Packets with addresses that their sender may not use: dropped by the switch, and counted."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from hostnet.netns import run_in
from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from tests.scenario.ovs_lab import KEY, backend, switch

On = Callable[..., str]
Eventually = Callable[..., None]


@pytest.mark.parametrize("attach", ["kbr0", "obr0"])
def test_spoofed_pod_packet_is_dropped_and_counted(
    make_lab: Callable[..., Lab],
    attach: str,
    on: On,
    eventually: Eventually,
    scrape: Callable[[Lab, int], list[str]],
) -> None:
    config = backend("vxlan", "flow", PodAttach=attach)
    # masquerading would give a spoofed packet the host's own address
    lab = make_lab(hosts=2, pods_per_host=0, backend=config, ip_masq=False)
    if attach == "kbr0":  # else the table on the bridge drops them before
        for plugin in lab.conflist["plugins"]:
            plugin["spoofCheck"] = False
    for number, name in ((1, "p1"), (1, "p2"), (2, "p1")):
        lab.add_pod(number, name)
    pods = {f"h{pod.host}-{pod.name}": pod for pod in lab.pods}
    sender, victim, target = pods["h1-p1"], pods["h1-p2"], pods["h2-p1"]
    with listening(target.netns) as receiver:
        eventually(
            lambda: arrives(sender.netns, sender.addresses[0], target.addresses[0], receiver),
            "packets with the pod's own address pass",
        )
        before = switch(lab, 1).dropped()["spoofed"]
        # an address of another host's subnet; and, where pods are ports of obr0, another pod's
        remote_address = str(ip_address(target.addresses[0]) + 100)
        spoofed = [remote_address] if attach == "kbr0" else [remote_address, victim.addresses[0]]
        for address in spoofed:
            on(sender.netns, f"ip addr add {address}/32 dev lo")
            send(sender.netns, address, target.addresses[0], b"spoofed")
        eventually(
            lambda: switch(lab, 1).dropped()["spoofed"] >= before + len(spoofed),
            "the drops are counted",
        )
        assert b"spoofed" not in waiting(receiver)
    name = 'flatmesh_ovs_dropped_packets_total{reason="spoofed"} '
    (value,) = (line.removeprefix(name) for line in scrape(lab, 1) if line.startswith(name))
    assert float(value) >= before + len(spoofed)


def waiting(receiver: socket.socket) -> list[bytes]:
    """Datagrams that have arrived, or arrive within half a second."""
    receiver.settimeout(0.5)
    found = []
    while True:
        try:
            found.append(receiver.recvfrom(100)[0])
        except TimeoutError:
            return found


def test_forged_tunnel_packet_is_dropped_and_counted(
    make_lab: Callable[..., Lab], eventually: Eventually
) -> None:
    """Right VNI and inner destination, but from an address that no lease has."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    lab = make_lab(hosts=2, pods_per_host=1, backend=backend("vxlan", "flow"))
    source, target = lab.pods
    receiver_host = target.host
    inner = (
        Ether(dst="0a:5a:00:00:00:01", src="0a:58:00:00:00:01")
        / IP(src=source.addresses[0], dst=target.addresses[0])
        / UDP(sport=5, dport=7)
        / b"hello"
    )
    forged = {
        "not_a_member": VXLAN(vni=KEY, flags=8) / inner,
        "wrong_key": VXLAN(vni=9, flags=8) / inner,
    }
    outside = processes.NETNS_DIR / lab.names.underlay
    with listening(target.netns) as receiver:
        for reason, packet in forged.items():
            before = switch(lab, receiver_host).dropped()[reason]
            with run_in(outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as raw:
                raw.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK, as VXLAN has it
                raw.sendto(bytes(packet), (host_ipv4(receiver_host), 4789))
            eventually(
                lambda why=reason, was=before: switch(lab, receiver_host).dropped()[why] == was + 1,
                f"{reason} is counted",
            )
        assert waiting(receiver) == []


def listening(netns: str) -> socket.socket:
    def opened() -> socket.socket:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 7))
        receiver.settimeout(10)
        return receiver

    return run_in(processes.NETNS_DIR / netns, opened)


def arrives(netns: str, source: str, target: str, receiver: socket.socket) -> bool:
    """Whether a datagram gets through; the first is lost while a tunnel resolves a MAC address."""
    receiver.settimeout(0.5)
    send(netns, source, target)
    try:
        return receiver.recvfrom(100)[0] == b"hello"
    except TimeoutError:
        return False


def send(netns: str, source: str, target: str, payload: bytes = b"hello") -> None:
    """Send a datagram from an address of the pod's, given by us or added by hand."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 0))
            sender.sendto(payload, (target, 7))

    run_in(processes.NETNS_DIR / netns, work)
