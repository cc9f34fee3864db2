# SPDX-License-Identifier: Apache-2.0
"""A static mesh under a spanning tree: loops are blocked, and traffic avoids a broken path."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from lab.matrix import measure
from tests.scenario.ovs_lab import blocked_ports, tree_is_settled


def assert_all_reach_all(lab: Lab) -> None:
    for family in (4, 6):
        results = lab.matrix(family, timeout=60.0)
        assert [result for result in results if not result.good] == []


def test_loop_is_blocked_and_a_broken_path_is_avoided(
    make_lab: Callable[..., Lab], eventually: Callable[..., None]
) -> None:
    config = {"Type": "ovs", "Tunnel": "gre", "Mesh": "static", "SpanningTree": "rstp"}
    lab = make_lab(hosts=3, pods_per_host=1, ipv6=True, backend=config)
    assert_all_reach_all(lab)
    eventually(lambda: tree_is_settled(lab), "one end of one of three tunnels is blocked")
    (idle,) = (number for number in lab.host_numbers if blocked_ports(lab, number))
    (unused,) = blocked_ports(lab, idle)
    one = next(n for n in lab.host_numbers if n != idle and host_ipv4(n) != unused)
    for end, other in ((one, idle), (idle, one)):
        hook = 'type filter hook ingress device "eth0" priority -10'
        drop = f"{hook}; ip saddr {host_ipv4(other)} drop;"
        table = f"table netdev broken {{ chain in {{ {drop} }}; }}"
        nft = [*processes.enter(lab.names.host(end)), "nft", "-f", "-"]
        subprocess.run(nft, input=table, text=True, check=True)
    eventually(lambda: not blocked_ports(lab, idle), "the tunnel that was idle is in use", 30)
    pods = lab.pod_endpoints(4)
    results = measure(pods, pods, timeout=60.0)
    assert [result for result in results if not result.good] == []
