# SPDX-License-Identifier: Apache-2.0
"""A cluster config and leases of numbered hosts, to plan a mesh from."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ipam.lease import Lease, LeaseAttributes
from ipam.network import parse_config
from ovs_mesh import topology
from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.desired_rows import desired_rows
from ovs_mesh.rows import BridgeRow
from ovs_mesh.topology import Peer


def config(**backend: Any) -> OvsConfig:
    text = {"Network": "10.5.0.0/16", "Backend": {"Type": "ovs", **backend}}
    return OvsConfig.of(parse_config(json.dumps(text)))


def lease(number: int, ovs: OvsConfig, **changes: Any) -> Lease:
    data = {"Tunnel": ovs.tunnel.kind, "Key": ovs.tunnel.key, "Port": ovs.tunnel.port}
    attributes: dict[str, Any] = {
        "public_ip": IPv4Address(f"192.168.64.{10 + number}"),
        "backend_type": "ovs",
        "backend_data": data,
    }
    return Lease(
        IPv4Network(f"10.5.{number}.0/24"), None, LeaseAttributes(**(attributes | changes))
    )


def peers(ovs: OvsConfig, *numbers: int) -> list[Peer]:
    own = lease(1, ovs)
    return [topology.peer_of(ovs, lease(number, ovs), own) for number in numbers]


def wanted_rows(ovs: OvsConfig, *numbers: int) -> list[BridgeRow]:
    mesh = peers(ovs, *numbers)
    tunnels = topology.tunnel_ports(ovs, mesh)
    datapath = Datapath("netdev", "test")
    return desired_rows(ovs, datapath, "02:00:00:00:00:01", tunnels, mesh, [])
