# SPDX-License-Identifier: Apache-2.0
"""The options of the ovs backend."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from hostnet.underlay import Underlay
from ipam.network import ConfigError
from ovs_mesh.config import OvsTunnel
from tests.unit.ovs_mesh.mesh_examples import config


def test_defaults_are_vxlan_by_flow() -> None:
    assert config().tunnel == OvsTunnel("vxlan", 1, 4789)
    assert (config().mesh, config().attach, config().datapath) == ("flow", "kbr0", "auto")


@pytest.mark.parametrize(
    ("backend", "complaint"),
    [
        ({"Tunnel": "ipip"}, "Backend.Tunnel"),
        ({"Tunnel": 4}, "Backend.Tunnel"),
        ({"Mesh": "full"}, "Backend.Mesh"),
        ({"Datapath": "dpdk"}, "Backend.Datapath"),
        ({"PodAttach": "docker0"}, "Backend.PodAttach"),
        ({"Key": 0}, "Backend.Key"),
        ({"Key": 2**24}, "Backend.Key"),
        ({"Tunnel": "gre", "Key": 2**32}, "Backend.Key"),
        ({"Tunnel": "gre", "Port": 4789}, "GRE has no ports"),
        ({"Port": 65536}, "Backend.Port"),
        ({"MTU": -1}, "Backend.MTU"),
        ({"Mesh": "static", "SpanningTree": "mstp"}, "Backend.SpanningTree"),
        ({"SpanningTree": "rstp"}, '"Mesh":"static"'),
        ({"Peers": [{"CIDR": "10.0.0.0/8"}]}, '"Mesh":"combined"'),
        ({"Mesh": "combined", "Peers": {}}, "Backend.Peers must be a list"),
        ({"Mesh": "combined", "Peers": [7]}, r"Backend.Peers\[1\]"),
        ({"Mesh": "combined", "Peers": [{}]}, "no CIDR"),
        ({"Mesh": "combined", "Peers": [{"CIDR": "10.0.0.0/33"}]}, "CIDR"),
        ({"Mesh": "combined", "Peers": [{"CIDR": "::/0", "Tunnel": "x"}]}, "Tunnel"),
        ({"Mesh": "combined", "Peers": [{"CIDR": "::/0", "Key": True}]}, "Key"),
        ({"Mesh": "combined", "Peers": [{"CIDR": "::/0", "Port": "1"}]}, "Port"),
    ],
)
def test_bad_key_is_named_in_one_line(backend: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        config(**backend)
    assert "\n" not in str(error.value)


def test_keys_match_without_regard_to_case() -> None:
    assert config(tunnel="GRE", MESH="Static").tunnel.kind == "gre"


@pytest.mark.parametrize(("tunnel", "mtu"), [("gre", 1458), ("vxlan", 1450), ("geneve", 1450)])
def test_mtu_leaves_room_for_the_headers(tunnel: str, mtu: int) -> None:
    ipv4 = Underlay("eth0", 1500, public_ip=IPv4Address("192.168.64.11"))
    ipv6 = Underlay("eth0", 1500, public_ipv6=IPv6Address("fd00:1::11"))
    assert config(Tunnel=tunnel).mtu(ipv4) == mtu
    assert config(Tunnel=tunnel).mtu(ipv6) == mtu - 20


def test_mtu_fits_the_largest_tunnel_of_a_combined_mesh() -> None:
    underlay = Underlay("eth0", 1500, public_ip=IPv4Address("192.168.64.11"))
    rule = {"CIDR": "192.168.64.0/24", "Tunnel": "vxlan"}
    assert config(Tunnel="gre", Mesh="combined", Peers=[rule]).mtu(underlay) == 1450
