# SPDX-License-Identifier: Apache-2.0
"""Every pod reaches every pod, and every host every pod, without NAT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.cluster import Lab

BACKENDS: list[dict[str, Any]] = [
    {"Type": "vxlan"},
    {"Type": "vxlan", "DirectRouting": True},
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
]


def assert_full_matrix(lab: Lab, family: int) -> None:
    pods = lab.pod_endpoints(family)
    results = lab.matrix(family, timeout=20.0)
    assert len(pods) == lab.spec.hosts * lab.spec.pods_per_host
    assert len(results) == len(pods) * (len(pods) - 1) + lab.spec.hosts * len(pods)
    assert [result for result in results if not result.good] == []


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_six_pods_on_three_hosts_over_ipv4_and_ipv6(
    make_lab: Callable[..., Lab], backend: dict[str, Any]
) -> None:
    lab = make_lab(backend=backend, ipv6=True)
    assert_full_matrix(lab, 4)
    assert_full_matrix(lab, 6)


@pytest.mark.parametrize("backend", [{"Type": "vxlan"}, {"Type": "host-gw"}], ids=str)
def test_ipv6_only_cluster_on_an_ipv6_only_underlay(
    make_lab: Callable[..., Lab], backend: dict[str, Any]
) -> None:
    lab = make_lab(hosts=2, backend=backend, ipv4=False, ipv6=True)
    assert_full_matrix(lab, 6)


def test_large_packets_pass_without_fragmentation(cluster: Lab, on: Callable[..., str]) -> None:
    first, second = cluster.pods[0], cluster.pods[-1]
    assert first.host != second.host
    # 1450 bytes: the pod's MTU; 28 of them are IPv4 and ICMP headers
    answer = on(first.netns, f"ping -c 1 -W 5 -M do -s {1450 - 28} {second.addresses[0]}")
    assert "1 received" in answer


def test_traffic_that_leaves_the_cluster_is_masqueraded(
    cluster: Lab, on: Callable[..., str]
) -> None:
    import json
    import socket

    from hostnet.netns import run_in
    from lab.hosts import UNDERLAY_IPV4, host_ipv4
    from lab.processes import NETNS_DIR

    pod = cluster.pods[0]
    outside = NETNS_DIR / cluster.names.underlay

    def bound(address: str) -> socket.socket:
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind((address, 0))
        datagram.settimeout(5)
        return datagram

    with (
        run_in(outside, lambda: bound(f"{UNDERLAY_IPV4}.1")) as server,
        run_in(NETNS_DIR / pod.netns, lambda: bound("")) as client,
    ):
        client.sendto(b"hello", server.getsockname())
        _, source = server.recvfrom(100)
    assert source[0] == host_ipv4(pod.host)
    assert json.loads(on(cluster.names.host(pod.host), "nft -j list table inet flatmesh"))
