# SPDX-License-Identifier: Apache-2.0
"""What the tests of the OVS mesh share: configs, and what a host's switch holds."""

from __future__ import annotations

import subprocess
from typing import Any

from lab.cluster import Lab
from lab.hosts import host_ipv4
from ovs_mesh.clients.openflow import Switch
from ovs_mesh.pipeline import COOKIE

KEY, RULE_KEY = 7, 77


def backend(tunnel: str, mesh: str, **more: Any) -> dict[str, Any]:
    config = {"Type": "ovs", "Tunnel": tunnel, "Mesh": mesh, "Key": KEY, **more}
    if mesh == "combined":  # hosts 2 and 3, .12 and .13, have another tunnel between them
        other = "vxlan" if tunnel == "gre" else "gre"
        config["Peers"] = [{"CIDR": "192.168.64.12/30", "Tunnel": other, "Key": RULE_KEY}]
    return config


def assert_all_reach_all(lab: Lab) -> None:
    for family in (4, 6):
        results = lab.matrix(family, timeout=30.0)
        assert len(results) == 3 * 2 + 3 * 3
        assert [result for result in results if not result.good] == []


def blocked_ports(lab: Lab, number: int) -> list[str]:
    """Peers of a lab of three hosts to which the spanning tree blocks the tunnel on a host."""
    blocked = []
    for peer in lab.host_numbers:
        if peer != number:
            status = lab.ovs(number).vsctl("get", "port", host_ipv4(peer), "rstp_status")
            if "rstp_port_state=Forwarding" not in status:
                blocked.append(host_ipv4(peer))
    return blocked


def tree_is_settled(lab: Lab) -> bool:
    """Whether the spanning tree has cut the one loop of three hosts, at one end of one tunnel."""
    return sum(len(blocked_ports(lab, number)) for number in lab.host_numbers) == 1


def switch(lab: Lab, number: int) -> Switch:
    return Switch(lab.ovs(number).directory, "obr0")


def flows_of(lab: Lab, number: int) -> set[str]:
    """Our flows on a host as text, without counters."""
    done = subprocess.run(
        ["ovs-ofctl", "--no-stats", "-O", "OpenFlow14", "dump-flows", switch(lab, number).target],
        capture_output=True,
        text=True,
        check=False,
    )
    return {line.strip() for line in done.stdout.splitlines() if f"{COOKIE:#x}" in line}
