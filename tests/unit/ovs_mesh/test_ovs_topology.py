# SPDX-License-Identifier: Apache-2.0
"""Which tunnels a host wants."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest

from ipam.lease import PeerUnusableError
from ovs_mesh import topology
from ovs_mesh.config import OvsTunnel
from tests.unit.ovs_mesh.mesh_examples import config, lease, peers


def test_static_mesh_has_a_port_per_peer_named_by_its_address() -> None:
    ovs = config(Tunnel="gre", Mesh="static", Key=7)
    ports = topology.tunnel_ports(ovs, peers(ovs, 2, 3))
    assert [(p.name, p.options) for p in ports] == [
        ("192.168.64.12", {"key": "7", "remote_ip": "192.168.64.12"}),
        ("192.168.64.13", {"key": "7", "remote_ip": "192.168.64.13"}),
    ]


def test_flow_mesh_has_one_port_however_many_peers() -> None:
    ovs = config(Mesh="flow")
    (port,) = topology.tunnel_ports(ovs, peers(ovs, 2, 3, 4))
    assert port.name == "mesh-vxlan"
    assert port.options == {"key": "flow", "remote_ip": "flow", "dst_port": "4789"}


def test_rule_holds_only_for_pairs_that_are_both_in_it() -> None:
    rule = {"CIDR": "192.168.64.8/30", "Tunnel": "gre", "Key": 9}  # .8 to .11: host 1 alone
    both = {"CIDR": "192.168.64.8/29", "Tunnel": "gre", "Key": 9}  # hosts 1 to 5
    alone, together = (config(Mesh="combined", Peers=[r]) for r in (rule, both))
    assert [p.port for p in peers(alone, 2)] == ["mesh-vxlan"]
    assert [p.port for p in peers(together, 2, 9)] == ["192.168.64.12", "mesh-vxlan"]
    assert peers(together, 2)[0].tunnel == OvsTunnel("gre", 9, 0)


def test_long_ipv6_peer_gets_a_name_that_fits() -> None:
    name = topology.port_name(IPv6Address("fd00:1:ffff:ffff:ffff:ffff:ffff:ffff"))
    assert name.startswith("v6-")
    assert len(name) <= 15


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backend_type": "vxlan"}, "backend is vxlan"),
        ({"backend_data": {"Tunnel": "gre", "Key": 1, "Port": 0}}, "has not followed yet"),
        ({"backend_data": None}, "has not followed yet"),
        ({"public_ip": None, "public_ipv6": IPv6Address("fd00::1")}, "no PublicIP"),
    ],
)
def test_peer_that_is_not_of_this_mesh_is_refused(changes: dict[str, Any], complaint: str) -> None:
    ovs = config()
    with pytest.raises(PeerUnusableError, match=complaint):
        topology.peer_of(ovs, lease(2, ovs, **changes), lease(1, ovs))
