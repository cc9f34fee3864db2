# SPDX-License-Identifier: Apache-2.0
"""A static mesh under a spanning tree: loops are blocked, and traffic avoids a broken path."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from lab.matrix import measure
from tests.scenario.ovs_lab import blocked_ports, tree_is_settled

SEND_BPDUS = """
import socket, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
own = sock.getsockname()[4]
bridge = bytes(2) + own
for _ in range(30):  # claims to be the root: priority 0
    bpdu = bytes.fromhex("000002023c") + bridge + bytes(4) + bridge
    bpdu += bytes.fromhex("80010000140002000f0000")
    payload = bytes.fromhex("424203") + bpdu
    sock.send(bytes.fromhex("0180c2000000") + own + len(payload).to_bytes(2, "big") + payload)
    time.sleep(0.1)
"""


def root_of(lab: Lab) -> str:
    status = lab.ovs(1).vsctl("get", "bridge", "obr0", "rstp_status")
    return str(status).partition("rstp_root_id=")[2].partition(",")[0]


def assert_pods_take_no_part_in_the_tree(lab: Lab) -> None:
    """Neither one that is checked nor one that may send what it likes."""
    lab.conflist["plugins"][0]["spoofCheck"] = False
    lab.add_pod(1, "unchecked")
    root = root_of(lab)
    assert root
    for pod in [pod for pod in lab.pods if pod.host == 1]:
        sender = [*processes.enter(pod.netns), sys.executable, "-c", SEND_BPDUS]
        with subprocess.Popen(sender) as sending:
            while sending.poll() is None:
                assert root_of(lab) == root
                time.sleep(0.1)
        assert sending.returncode == 0
    assert root_of(lab) == root


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
    assert_pods_take_no_part_in_the_tree(lab)
    eventually(lambda: tree_is_settled(lab), "the tree is as before")
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
