# SPDX-License-Identifier: Apache-2.0
"""The flows of obr0 for a config, leases and pods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from hostnet.kinds.neighbour import Neighbour
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ovs_mesh import match, topology
from ovs_mesh.backend import OvsBackend
from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.flows import PIPELINE, PeerFlowCache, all_flows
from ovs_mesh.inputs import HostSide, PodPort
from ovs_mesh.pipeline import COOKIE
from ovs_mesh.rows import ActualBridge, BridgeRow, row_changes
from ovs_mesh.tables.neighbour import ROUTER_IPV4, ROUTER_IPV6, ROUTER_MAC, router_neighbours
from ovs_mesh.tables.remote import FLOOD_CHUNK
from tests.unit.ovs_mesh.mesh_examples import config, lease, peers, wanted_rows


def text(
    ovs: OvsConfig, *numbers: int, pods: tuple[PodPort, ...] = (), on_switch: bool = False
) -> list[str]:
    local = HostSide(
        gateway_port="LOCAL" if on_switch else 1,
        gateway_mac="0a:58:0a:05:01:01",
        gateways=("10.5.1.1",),
        subnets=(IPv4Network("10.5.1.0/24"),),
        sources=("192.168.64.11",),
        pods=pods,
        on_switch=on_switch,
    )
    mesh = peers(ovs, *numbers)
    ofports = {name: n for n, name in enumerate(sorted({p.port for p in mesh}), 10)}
    prefix = f"cookie={COOKIE:#x},"
    return [line.removeprefix(prefix) for line in all_flows(ovs, local, mesh, ofports)]


def added(few: Iterable[str], many: Iterable[str]) -> list[str]:
    return sorted(set(many) - set(few))


def test_peer_of_a_flow_mesh_is_its_route_and_its_right_to_send() -> None:
    ovs = config(Key=7)
    assert added(text(ovs, 2), text(ovs, 2, 3)) == [
        (
            "table=20,priority=100,ip,nw_src=10.5.3.0/24,tun_src=192.168.64.13,in_port=10"
            " actions=goto_table:40"
        ),
        (
            "table=20,priority=100,ip,nw_src=192.168.64.13,tun_src=192.168.64.13,in_port=10"
            " actions=goto_table:40"
        ),
        (
            "table=20,priority=20,tun_src=192.168.64.13,in_port=10"
            " actions=set_field:2->reg1,goto_table:250"
        ),
        (
            "table=50,priority=100,ip,nw_dst=10.5.3.0/24 actions=dec_ttl,"
            "set_field:0a:58:0a:05:01:01->eth_src,set_field:0a:5a:00:00:00:01->eth_dst,"
            "set_field:7->tun_id,set_field:192.168.64.13->tun_dst,output:10"
        ),
    ]


def test_static_mesh_never_sends_from_tunnel_to_tunnel() -> None:
    lines = text(config(Mesh="static"), 2, 3)
    to_tunnels = [line for line in lines if "output:10" in line or "output:11" in line]
    assert {line.split(",")[0] for line in to_tunnels} == {"table=50", "table=60"}
    into = f"goto_table:{PIPELINE.numbers['remote']}"
    into_remote = [line for line in lines if into in line]
    assert into_remote == [
        "table=40,priority=30,in_port=1 actions=goto_table:50",
        f"table=40,priority=115,in_port=1,{match.GRATUITOUS} actions=goto_table:50",
    ]


def test_flow_mesh_sends_no_broadcast_to_tunnels() -> None:
    for line in text(config(), 2, 3):
        if "output:10" in line:
            assert line.startswith("table=50,priority=100,ip,nw_dst=10.5.")


def test_every_table_drops_by_default() -> None:
    for mesh in ("static", "flow"):
        lines = text(config(Mesh=mesh), 2)
        for table in (0, 10, 20, 40, 50):
            assert f"table={table},priority=0 actions=drop" in lines


def test_pod_on_the_switch_may_send_only_what_is_its_own() -> None:
    ovs = config(PodAttach="obr0")
    pod = PodPort("0a:58:0a:05:01:02", ("10.5.1.2",), 5)
    lines = added(text(ovs, 2, on_switch=True), text(ovs, 2, pods=(pod,), on_switch=True))
    allowed = [line for line in lines if line.startswith("table=10") and ":250" not in line]
    assert allowed == [
        (
            "table=10,priority=100,arp,in_port=5,dl_src=0a:58:0a:05:01:02,arp_sha=0a:58:0a:05:01:02,"
            "arp_spa=10.5.1.2 actions=goto_table:30"
        ),
        (
            "table=10,priority=100,ip,nw_src=10.5.1.2,in_port=5,dl_src=0a:58:0a:05:01:02"
            " actions=goto_table:40"
        ),
    ]
    assert "table=10,priority=12,in_port=5 actions=set_field:1->reg1,goto_table:250" in lines


def test_pod_that_is_not_checked_still_does_not_speak_as_a_router() -> None:
    ovs = config(PodAttach="obr0")
    pod = PodPort("0a:58:0a:05:01:02", ("10.5.1.2",), 5, checked=False)
    lines = added(text(ovs, 2, on_switch=True), text(ovs, 2, pods=(pod,), on_switch=True))
    own = {line for line in lines if line.startswith("table=10")}
    assert "table=10,priority=60,ip,in_port=5 actions=goto_table:40" in own
    assert "table=10,priority=60,arp,in_port=5 actions=goto_table:30" in own
    dropped = {line.partition(" ")[0] for line in own if ":250" in line}
    assert dropped == {
        "table=10,priority=130,in_port=5,vlan_tci=0x1000/0x1000",
        "table=10,priority=120,icmp6,icmp_type=134,in_port=5",
        "table=10,priority=120,icmp6,icmp_type=137,in_port=5",
        "table=10,priority=120,icmp,icmp_type=5,in_port=5",
        "table=10,priority=120,udp,tp_src=67,in_port=5",
        "table=10,priority=120,udp6,tp_src=547,in_port=5",
    }


def test_flood_to_a_thousand_peers_fits_openflow_messages() -> None:
    ovs = config(Mesh="static")
    lines = text(ovs, *range(2, 12))
    assert sum(line.startswith("table=60") for line in lines) == 1
    assert max(line.count("output:") for line in lines) <= FLOOD_CHUNK


def test_ipv6_subnets_and_underlay_use_their_own_fields() -> None:
    ovs = OvsConfig(enable_ipv6=True, ipv6_network=IPv6Network("fd05::/48"))
    data = {"Tunnel": "vxlan", "Key": 1, "Port": 4789}

    def six(number: int) -> Lease:
        attributes = LeaseAttributes(None, IPv6Address(f"fd00:1::{number}"), "ovs", None, data)
        return Lease(None, IPv6Network(f"fd05:0:0:{number}::/64"), attributes)

    peer = topology.peer_of(ovs, six(2), six(1))
    local = HostSide(1, "0a:58:00:00:00:01", (), (IPv6Network("fd05:0:0:1::/64"),), ())
    lines = "\n".join(all_flows(ovs, local, [peer], {"mesh-vxlan": 4}))
    assert "ipv6,ipv6_src=fd05:0:0:2::/64,tun_ipv6_src=fd00:1::2,in_port=4" in lines
    assert "set_field:fd00:1::2->tun_ipv6_dst,output:4" in lines
    assert "nd_target=fd05::/48" in lines
    assert "->nd_options_type" in lines
    in_kernel = replace(local, answers_nd=False)
    lines = "\n".join(all_flows(ovs, in_kernel, [peer], {"mesh-vxlan": 4}))
    # Open vSwitch refuses flows with these on the kernel's datapath
    assert "nd_options_type" not in lines
    assert "nd_reserved" not in lines
    assert "table=31" not in lines


@pytest.mark.parametrize("type_", ["netdev", "system"])
def test_hosts_know_the_router_without_asking(type_: str, tmp_path: Path) -> None:
    underlay = Underlay("eth0", 1500, IPv4Address("192.168.64.11"))
    for attach, device in (("kbr0", "kbr0"), ("obr0", "obr0")):
        for mesh, known in (
            ("flow", {ROUTER_IPV4}),
            ("combined", {ROUTER_IPV4}),
            ("static", set()),
        ):
            ovs = config(Mesh=mesh, PodAttach=attach)
            datapath = Datapath(type_, "test")
            backend = OvsBackend(ovs, datapath, tmp_path, tmp_path, tmp_path)
            entries = backend.base(lease(1, ovs), underlay).of(Neighbour)
            assert entries == {Neighbour(device, address, ROUTER_MAC) for address in known}
    both = OvsConfig(enable_ipv6=True, ipv6_network=IPv6Network("fd05::/48"))
    entries = frozenset(router_neighbours(both, "kbr0"))
    assert {entry.address for entry in entries} == {ROUTER_IPV4, ROUTER_IPV6}


def test_spanning_tree_makes_a_learning_switch_that_knows_its_peers() -> None:
    ovs = config(Mesh="static", SpanningTree="rstp")
    rows = wanted_rows(ovs, 2)
    bridge = next(row for row in rows if row.name == "obr0")
    assert bridge.spanning_tree == "rstp"
    assert {port.name: port.edge for port in bridge.ports} == {
        "obr0-kbr0": True,
        "192.168.64.12": False,
    }
    before = [BridgeRow(row.name, row.datapath, row.other_config, row.ports) for row in rows]
    changes = row_changes(rows, {row.name: ActualBridge(row, ours=True) for row in before})
    assert [change.verb for change in changes] == ["set-br"]
    assert "rstp_enable=true" in changes[0].line()
    local = HostSide(1, "0a:58:00:00:00:01", (), (IPv4Network("10.5.1.0/24"),), ())
    lines = all_flows(ovs, local, peers(ovs, 2), {"192.168.64.12": 4})
    assert [line for line in lines if "10.5.2.0/24" in line and "in_port" in line] == []
    assert [line for line in lines if "NORMAL" in line and "table=40," in line]


def test_flows_of_peers_that_stay_are_not_written_anew() -> None:
    ovs = config()
    local = HostSide(1, "0a:58:00:00:00:01", (), (IPv4Network("10.5.1.0/24"),), ())
    two, three = peers(ovs, 2, 3)
    kept, ofports = PeerFlowCache(), {"mesh-vxlan": 4}
    first = all_flows(ovs, local, [two, three], ofports, kept)
    again = all_flows(ovs, local, [two], ofports, kept)
    assert again == all_flows(ovs, local, [two], ofports)
    assert {id(line) for line in again if "10.5.2.0" in line} <= set(map(id, first))
    moved = all_flows(ovs, local, [two], {"mesh-vxlan": 5}, kept)
    assert moved == all_flows(ovs, local, [two], {"mesh-vxlan": 5})
