"""The mesh as data: config, tunnels, rows and flows, with no Open vSwitch in sight."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes, PeerUnusableError
from ipam.network import ConfigError, parse_config
from ovs_mesh import bridges, flows, layout, topology
from ovs_mesh.bridges import Bridge, BridgeConflictError, Found, Port
from ovs_mesh.config import OvsConfig, Tunnel
from ovs_mesh.datapath import Datapath
from ovs_mesh.openflow import FlowChange, _read, difference
from ovs_mesh.watch import Watch, words_of


def config(**backend):
    text = {"Network": "10.5.0.0/16", "Backend": {"Type": "ovs", **backend}}
    return OvsConfig.of(parse_config(json.dumps(text)))


def lease(number, ovs, **changes):
    data = {"Tunnel": ovs.tunnel.kind, "Key": ovs.tunnel.key, "Port": ovs.tunnel.port}
    attributes = {
        "public_ip": IPv4Address(f"192.168.64.{10 + number}"),
        "backend_type": "ovs",
        "backend_data": data,
    }
    return Lease(
        IPv4Network(f"10.5.{number}.0/24"), None, LeaseAttributes(**(attributes | changes))
    )


def peers(ovs, *numbers):
    own = lease(1, ovs)
    return [topology.peer_of(ovs, lease(number, ovs), own) for number in numbers]


# -- config ----------------------------------------------------------------------------


def test_defaults_are_vxlan_by_flow():
    assert config().tunnel == Tunnel("vxlan", 1, 4789)
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
def test_bad_key_is_named_in_one_line(backend, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        config(**backend)
    assert "\n" not in str(error.value)


def test_keys_match_without_regard_to_case():
    assert config(tunnel="GRE", MESH="Static").tunnel.kind == "gre"


@pytest.mark.parametrize(("tunnel", "mtu"), [("gre", 1458), ("vxlan", 1450), ("geneve", 1450)])
def test_mtu_leaves_room_for_the_headers(tunnel, mtu):
    ipv4 = Underlay("eth0", 1500, public_ip=IPv4Address("192.168.64.11"))
    ipv6 = Underlay("eth0", 1500, public_ipv6=IPv6Address("fd00:1::11"))
    assert config(Tunnel=tunnel).mtu(ipv4) == mtu
    assert config(Tunnel=tunnel).mtu(ipv6) == mtu - 20


def test_mtu_fits_the_largest_tunnel_of_a_combined_mesh():
    underlay = Underlay("eth0", 1500, public_ip=IPv4Address("192.168.64.11"))
    rule = {"CIDR": "192.168.64.0/24", "Tunnel": "vxlan"}
    assert config(Tunnel="gre", Mesh="combined", Peers=[rule]).mtu(underlay) == 1450


# -- topology --------------------------------------------------------------------------


def test_static_mesh_has_a_port_per_peer_named_by_its_address():
    ovs = config(Tunnel="gre", Mesh="static", Key=7)
    ports = topology.tunnel_ports(ovs, peers(ovs, 2, 3))
    assert [(p.name, p.options) for p in ports] == [
        ("192.168.64.12", {"key": "7", "remote_ip": "192.168.64.12"}),
        ("192.168.64.13", {"key": "7", "remote_ip": "192.168.64.13"}),
    ]


def test_flow_mesh_has_one_port_however_many_peers():
    ovs = config(Mesh="flow")
    (port,) = topology.tunnel_ports(ovs, peers(ovs, 2, 3, 4))
    assert port.name == "mesh-vxlan"
    assert port.options == {"key": "flow", "remote_ip": "flow", "dst_port": "4789"}


def test_rule_holds_only_for_pairs_that_are_both_in_it():
    rule = {"CIDR": "192.168.64.8/30", "Tunnel": "gre", "Key": 9}  # .8 to .11: host 1 alone
    both = {"CIDR": "192.168.64.8/29", "Tunnel": "gre", "Key": 9}  # hosts 1 to 5
    alone, together = (config(Mesh="combined", Peers=[r]) for r in (rule, both))
    assert [p.port for p in peers(alone, 2)] == ["mesh-vxlan"]
    assert [p.port for p in peers(together, 2, 9)] == ["192.168.64.12", "mesh-vxlan"]
    assert peers(together, 2)[0].tunnel == Tunnel("gre", 9, 0)


def test_long_ipv6_peer_gets_a_name_that_fits():
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
def test_peer_that_is_not_of_this_mesh_is_refused(changes, complaint):
    ovs = config()
    with pytest.raises(PeerUnusableError, match=complaint):
        topology.peer_of(ovs, lease(2, ovs, **changes), lease(1, ovs))


# -- rows ------------------------------------------------------------------------------


def wanted_rows(ovs, *numbers):
    mesh = peers(ovs, *numbers)
    tunnels = topology.tunnel_ports(ovs, mesh)
    datapath = Datapath("netdev", "test")
    return layout.bridges(ovs, datapath, "02:00:00:00:00:01", tunnels, mesh, [])


def found(rows, foreign=()):
    return {row.name: Found(row, ours=True, foreign_ports=frozenset(foreign)) for row in rows}


def test_nothing_to_do_when_rows_are_as_wanted():
    rows = wanted_rows(config(Mesh="static"), 2, 3)
    assert bridges.diff(rows, found(rows)) == []


def test_new_peer_is_one_port():
    ovs = config(Mesh="static", Tunnel="gre")
    changes = bridges.diff(wanted_rows(ovs, 2, 3), found(wanted_rows(ovs, 2)))
    assert [change.line() for change in changes] == [
        (
            "ovs-vsctl add-port obr0 192.168.64.13 -- set interface 192.168.64.13 "
            "type=gre options:key=1 options:remote_ip=192.168.64.13"
        )
    ]


def test_other_tunnel_is_set_in_place():
    before, after = config(Mesh="static", Tunnel="gre"), config(Mesh="static")
    changes = bridges.diff(wanted_rows(after, 2), found(wanted_rows(before, 2)))
    assert [change.verb for change in changes] == ["set-port"]


def test_foreign_bridges_and_ports_stay():
    rows = wanted_rows(config(), 2)
    there = found(rows, foreign=["eth1"])
    there["br-ex"] = Found(Bridge("br-ex", "system"), ours=False)
    assert bridges.diff(rows, there) == []
    assert [c.line() for c in bridges.diff([], there)] == [
        "ovs-vsctl del-br obr0",
        "ovs-vsctl del-br obr0-phy",
    ]


def test_name_that_is_taken_is_refused():
    rows = wanted_rows(config(), 2)
    with pytest.raises(BridgeConflictError, match=r"bridge obr0 .* not ours"):
        bridges.diff(rows, {"obr0": Found(Bridge("obr0", "system"), ours=False)})
    with pytest.raises(BridgeConflictError, match=r"port mesh-vxlan .* not ours"):
        bridges.diff(
            rows,
            {
                row.name: Found(
                    Bridge(row.name, row.datapath, row.other_config, (Port("x"),)),
                    ours=True,
                    foreign_ports=frozenset(["mesh-vxlan", "phy-ovs"] if row == rows[1] else []),
                )
                for row in rows
            },
        )


# -- flows -----------------------------------------------------------------------------


def text(ovs, *numbers, pods=(), on_switch=False):
    local = flows.LocalSide(
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
    prefix = f"cookie={flows.COOKIE:#x},"
    return [line.removeprefix(prefix) for line in flows.pipeline(ovs, local, mesh, ofports)]


def added(few, many):
    return sorted(set(many) - set(few))


def test_peer_of_a_flow_mesh_is_its_route_and_its_right_to_send():
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
            "table=50,priority=100,ip,nw_dst=10.5.3.0/24 actions=dec_ttl,"
            "set_field:0a:58:0a:05:01:01->eth_src,set_field:0a:5a:00:00:00:01->eth_dst,"
            "set_field:7->tun_id,set_field:192.168.64.13->tun_dst,output:10"
        ),
    ]


def test_static_mesh_never_sends_from_tunnel_to_tunnel():
    lines = text(config(Mesh="static"), 2, 3)
    to_tunnels = [line for line in lines if "output:10" in line or "output:11" in line]
    assert {line.split(",")[0] for line in to_tunnels} == {"table=50", "table=60"}
    into_remote = [line for line in lines if f"goto_table:{flows.REMOTE}" in line]
    assert into_remote == ["table=40,priority=30,in_port=1 actions=goto_table:50"]


def test_flow_mesh_sends_no_broadcast_to_tunnels():
    for line in text(config(), 2, 3):
        if "output:10" in line:
            assert line.startswith("table=50,priority=100,ip,nw_dst=10.5.")


def test_every_table_drops_by_default():
    for mesh in ("static", "flow"):
        lines = text(config(Mesh=mesh), 2)
        for table in (0, 10, 20, 40, 50):
            assert f"table={table},priority=0 actions=drop" in lines


def test_pod_on_the_switch_may_send_only_what_is_its_own():
    ovs = config(PodAttach="obr0")
    pod = flows.PodPort("0a:58:0a:05:01:02", ("10.5.1.2",), 5)
    lines = added(text(ovs, 2, on_switch=True), text(ovs, 2, pods=(pod,), on_switch=True))
    assert [line for line in lines if line.startswith("table=10")] == [
        (
            "table=10,priority=100,arp,in_port=5,dl_src=0a:58:0a:05:01:02,arp_sha=0a:58:0a:05:01:02,"
            "arp_spa=10.5.1.2 actions=goto_table:30"
        ),
        (
            "table=10,priority=100,ip,nw_src=10.5.1.2,in_port=5,dl_src=0a:58:0a:05:01:02"
            " actions=goto_table:40"
        ),
    ]


def test_flood_to_a_thousand_peers_fits_openflow_messages():
    ovs = config(Mesh="static")
    lines = text(ovs, *range(2, 12))
    assert sum(line.startswith("table=60") for line in lines) == 1
    assert max(line.count("output:") for line in lines) <= flows.FLOOD_CHUNK


# -- bundles ---------------------------------------------------------------------------


def test_only_our_flows_are_changed_and_a_replaced_one_is_no_deletion():
    mine = f"cookie={flows.COOKIE:#x}"
    difference = "\n".join(
        [
            f"-table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:3",
            f"+table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:2",
            f"+table=50 priority=100,ip,nw_dst=10.5.9.0/24 {mine} actions=output:2",
            "+table=50 priority=7,ip actions=drop",
            "+table=50 priority=8,ip cookie=0x1 actions=drop",
        ]
    )
    assert [(c.verb, c.flow) for c in _read(difference)] == [
        ("delete_strict", f"{mine}/-1,table=50 priority=100,ip,nw_dst=10.5.9.0/24"),
        ("add", f"table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:3"),
    ]


def test_ipv6_subnets_and_underlay_use_their_own_fields():
    ovs = OvsConfig(enable_ipv6=True, ipv6_network=IPv6Network("fd05::/48"))
    data = {"Tunnel": "vxlan", "Key": 1, "Port": 4789}

    def six(number):
        attributes = LeaseAttributes(None, IPv6Address(f"fd00:1::{number}"), "ovs", None, data)
        return Lease(None, IPv6Network(f"fd05:0:0:{number}::/64"), attributes)

    peer = topology.peer_of(ovs, six(2), six(1))
    local = flows.LocalSide(1, "0a:58:00:00:00:01", (), (IPv6Network("fd05:0:0:1::/64"),), ())
    lines = "\n".join(flows.pipeline(ovs, local, [peer], {"mesh-vxlan": 4}))
    assert "ipv6,ipv6_src=fd05:0:0:2::/64,tun_ipv6_src=fd00:1::2,in_port=4" in lines
    assert "set_field:fd00:1::2->tun_ipv6_dst,output:4" in lines
    assert "nd_target=fd05::/48" in lines


def test_operators_own_settings_of_our_bridge_stay():
    rows = wanted_rows(config(), 2)
    there = {
        row.name: Found(
            Bridge(row.name, row.datapath, {**row.other_config, "mac-table-size": "9"}, row.ports),
            ours=True,
        )
        for row in rows
    }
    assert bridges.diff(rows, there) == []


def test_spanning_tree_makes_a_learning_switch_that_knows_its_peers():
    ovs = config(Mesh="static", SpanningTree="rstp")
    rows = wanted_rows(ovs, 2)
    bridge = next(row for row in rows if row.name == "obr0")
    assert bridge.spanning_tree == "rstp"
    assert {port.name: port.edge for port in bridge.ports} == {
        "obr0-kbr0": True,
        "192.168.64.12": False,
    }
    before = [Bridge(row.name, row.datapath, row.other_config, row.ports) for row in rows]
    changes = bridges.diff(rows, {row.name: Found(row, ours=True) for row in before})
    assert [change.verb for change in changes] == ["set-br"]
    assert "rstp_enable=true" in changes[0].line()
    local = flows.LocalSide(1, "0a:58:00:00:00:01", (), (IPv4Network("10.5.1.0/24"),), ())
    lines = flows.pipeline(ovs, local, peers(ovs, 2), {"192.168.64.12": 4})
    assert [line for line in lines if "10.5.2.0/24" in line and "in_port" in line] == []
    assert [line for line in lines if "NORMAL" in line and "table=40," in line]


# -- what one change costs -------------------------------------------------------------


def test_difference_to_what_was_applied_is_one_change_per_flow():
    mine = "cookie=0xf1a73e5400000001"
    stays = f"{mine},table=0,priority=0 actions=drop"
    before = {stays, f"{mine},table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=output:2"}
    wanted = {stays, f"{mine},table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=output:3"}
    (change,) = difference(before, wanted)
    assert (change.verb, change.replaces, change.place) == ("add", True, (50, 100))
    added, gone = difference(set(), wanted), difference(wanted, {stays})
    assert [(c.verb, c.replaces, c.place) for c in added] == [
        ("add", False, (0, 0)),
        ("add", False, (50, 100)),
    ]
    assert [(c.verb, c.place) for c in gone] == [("delete_strict", (50, 100))]


def test_flows_of_peers_that_stay_are_not_written_anew():
    ovs = config()
    local = flows.LocalSide(1, "0a:58:00:00:00:01", (), (IPv4Network("10.5.1.0/24"),), ())
    two, three = peers(ovs, 2, 3)
    kept, ofports = flows.PeerFlows(), {"mesh-vxlan": 4}
    first = flows.pipeline(ovs, local, [two, three], ofports, kept)
    again = flows.pipeline(ovs, local, [two], ofports, kept)
    assert again == flows.pipeline(ovs, local, [two], ofports)
    assert {id(line) for line in again if "10.5.2.0" in line} <= set(map(id, first))
    moved = flows.pipeline(ovs, local, [two], {"mesh-vxlan": 5}, kept)
    assert moved == flows.pipeline(ovs, local, [two], {"mesh-vxlan": 5})


def test_word_too_many_is_somebody_elses():
    ours = words_of(
        [FlowChange("add", "table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=drop")],
        come=["192.168.64.12"],
        go=[],
    )
    assert ours == {(0, 50, 100): 1, (0, "192.168.64.12"): 1}
    watch = Watch(Path("/nonexistent"), "obr0", lambda: None)
    try:
        with watch.expecting(ours):
            assert not watch._unexpected(Counter(ours))
            assert watch._unexpected(Counter({(0, 50, 100): 1}))
        assert watch._unexpected(Counter({(1, 50, 100): 1}))
    finally:
        watch.close()
