# SPDX-License-Identifier: Apache-2.0
"""A host run by flanneld joins: its lease and its kernel are what flanneld makes (FACTS 1, 3).

flanneld's half is made by hand, byte for byte and command for command: the key in etcd with
its value and its own lease of a day, the device, routes, neighbour and FDB entries without any
mark. Pods on both sides must reach each other, and the frames between must be flanneld's.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hostnet.netns import run_in
from lab import hosts
from lab.cluster import Lab
from lab.hosts import host_ipv4
from lab.processes import NETNS_DIR
from tests.scenario.free_subnets import free_subnets

On = Callable[..., str]
Eventually = Callable[..., None]

MAC = "c6:d2:32:6f:8f:44"
VALUES = {
    "vxlan": '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"' + MAC + '"}}',
    "host-gw": '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}',
}
ETH_P_ALL = 3  # linux/if_ether.h


@contextmanager
def capture(netns: str, link: str) -> Iterator[socket.socket]:
    """A packet socket on a device of a namespace."""

    def opened() -> socket.socket:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packets.bind((link, 0))
        packets.settimeout(5)
        return packets

    with run_in(NETNS_DIR / netns, opened) as packets:
        yield packets


def flanneld_joins(lab: Lab, on: On, backend: str, subnet: str) -> str:
    """Make host 2 a flanneld host with one pod, at `subnet`.9; returns the pod's namespace.

    `subnet` is what the addresses of a free one begin with: `10.5.222`.
    """
    etcdctl = f"etcdctl --endpoints={lab.endpoint}"
    granted = on(lab.names.underlay, f"{etcdctl} lease grant 86400").split()[1]
    key = f"/coreos.com/network/subnets/{subnet}.0-24"
    value = VALUES[backend] % host_ipv4(2)
    on(lab.names.underlay, f"{etcdctl} put --lease={granted} {key} {value}")
    ours, base = lab.subnet(1), lab.subnet(1).removesuffix("/24")
    host = lab.names.host(2)
    pod = hosts.make_pod(lab.names, 2, "p1").name
    on(host, "sysctl -q -w net.ipv4.ip_forward=1")
    on(host, "ip link add cni0 type bridge")
    on(host, f"ip addr add {subnet}.1/24 dev cni0")
    on(host, "ip link set cni0 up")
    on(host, f"ip link add eth0 netns {pod} type veth peer name veth0")
    on(host, "ip link set veth0 master cni0 up")
    on(pod, f"ip addr add {subnet}.9/24 dev eth0")
    on(pod, "ip link set eth0 up")
    on(pod, f"ip route add default via {subnet}.1")
    if backend == "vxlan":
        (link,) = json.loads(on(lab.names.host(1), "ip -json link show flannel.1"))
        on(
            host,
            f"ip link add flannel.1 address {MAC} mtu 1450 type vxlan id 1 dev eth0 "
            f"local {host_ipv4(2)} dstport 8472 nolearning",
        )
        on(host, f"ip addr add {subnet}.0/32 dev flannel.1")
        on(host, "ip link set flannel.1 up")
        on(host, f"ip neigh add {base} lladdr {link['address']} dev flannel.1 nud permanent")
        on(host, f"bridge fdb add {link['address']} dev flannel.1 dst {host_ipv4(1)} self")
        on(host, f"ip route add {ours} via {base} dev flannel.1 onlink")
    else:
        on(host, f"ip route add {ours} via {host_ipv4(1)}")
    return pod


@pytest.mark.parametrize("backend", list(VALUES))
def test_pods_of_both_reach_each_other(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually, backend: str
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": backend})
    lab.delete_pod(2, "p1")
    lab.stop_daemon(2)
    lab.flatmesh("lease", "release", lab.subnet(2))
    theirs = lab.names.host(2)
    if backend == "vxlan":
        on(theirs, "ip link del flannel.1")
    on(theirs, "nft delete table inet flatmesh")
    on(theirs, f"ip route del {lab.subnet(1)}", check=False)
    subnet = free_subnets(lab, 1)[0].removesuffix(".0/24")
    pod = flanneld_joins(lab, on, backend, subnet)
    ours = lab.pods[0]
    eventually(
        lambda: f"{subnet}.0/24" in on(lab.names.host(1), "ip route"), "flanneld's host is known"
    )
    # the filter may learn of the new host a moment after the routes: one answer of three will do
    on(ours.netns, f"ping -c 3 -W 5 {subnet}.9")
    on(pod, f"ping -c 3 -W 5 {ours.addresses[0]}")


def test_frames_are_flannelds(cluster: Lab, on: On) -> None:
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    first, last = cluster.pods[0], cluster.pods[-1]
    macs = {}
    for pod in (first, last):
        shown = on(cluster.names.host(pod.host), "ip -json link show flannel.1")
        macs[pod.host] = json.loads(shown)[0]["address"]
    with capture(cluster.names.underlay, f"h{first.host}") as packets:
        on(first.netns, f"ping -c 1 -W 5 {last.addresses[0]}")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            frame = Ether(packets.recv(65535))
            if UDP in frame and frame[UDP].dport == 8472:
                inner = VXLAN(bytes(frame[UDP].payload))
                if ICMP in inner and inner[ICMP].type == 8:
                    break
        else:
            pytest.fail("no tunnelled echo request on the underlay")
    assert (frame[IP].src, frame[IP].dst) == (host_ipv4(first.host), host_ipv4(last.host))
    assert (int(inner.flags), inner.vni) == (0x08, 1)  # RFC 7348: the I flag and nothing else
    assert (inner[Ether].src, inner[Ether].dst) == (macs[first.host], macs[last.host])
    assert (inner[IP].src, inner[IP].dst) == (first.addresses[0], last.addresses[0])


def test_udp_leases_and_datagrams_are_flannelds(make_lab: Callable[..., Lab], on: On) -> None:
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.l2 import Ether

    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "udp"})
    key = f"/coreos.com/network/subnets/{lab.subnet(1).replace('/', '-')}"
    value = on(lab.names.underlay, f"etcdctl --endpoints={lab.endpoint} get {key}").splitlines()[1]
    # the last key is ours: flanneld overlooks keys that it does not know
    assert value == f'{{"PublicIP":"{host_ipv4(1)}","PublicIPv6":null,"Ingress":true}}'
    first, last = lab.pods
    with capture(lab.names.underlay, f"h{first.host}") as packets:
        on(first.netns, f"ping -c 1 -W 5 -t 20 {last.addresses[0]}")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            frame = Ether(packets.recv(65535))
            if UDP in frame and frame[UDP].dport == 8285:
                inner = IP(bytes(frame[UDP].payload))  # the packet itself: no header between
                if ICMP in inner and inner[ICMP].type == 8:
                    break
        else:
            pytest.fail("no tunnelled echo request on the underlay")
    assert (frame[IP].src, frame[IP].dst) == (host_ipv4(first.host), host_ipv4(last.host))
    assert frame[UDP].sport == 8285
    assert (inner.src, inner.dst) == (first.addresses[0], last.addresses[0])
    assert inner.ttl < 20  # each side takes one, as a router does
