# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.foreign.routes import UnmarkedRoute
from hostnet.kinds.link import Link
from hostnet.kinds.links.bridge import Bridge
from hostnet.kinds.links.veth import Veth
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.nexthop import Nexthop, NexthopTable
from hostnet.kinds.nft_table import NftTable
from hostnet.kinds.route import FLUSHED_BY_KERNEL
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.plan import Plan
from hostnet.plan import diff as plan_diff
from hostnet.state import HostState, merge
from hostnet.sysctl import Sysctl

VTEP = Link(
    "flannel.1",
    "vxlan",
    mtu=1450,
    mac="c6:d2:32:6f:8f:44",
    addrgenmode="none",
    details=Vxlan(1, 8472, "192.168.64.2", "eth0"),
)
FOUND_VTEP = replace(VTEP, alias="flatmesh")
TABLE = NftTable(
    "inet",
    "flatmesh",
    "chain forward {\n\ttype filter hook forward priority filter; policy accept;\n"
    "\tip saddr 10.5.0.0/16 accept\n}\n",
)
BASE = HostState(
    links=frozenset([VTEP]),
    addresses=frozenset([Address("flannel.1", "10.5.76.0/32")]),
    sysctls=frozenset(
        [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv4/conf/flannel.1/rp_filter", "0")]
    ),
    tables=frozenset([TABLE]),
)


def peer(subnet: str, mac: str, public: str) -> HostState:
    return HostState(
        routes=frozenset([Route(f"{subnet}/24", "flannel.1", subnet, onlink=True)]),
        neighbours=frozenset([Neighbour("flannel.1", subnet, mac)]),
        fdb=frozenset([FdbEntry("flannel.1", mac, public)]),
    )


A = peer("10.5.64.0", "c6:d2:32:00:00:0a", "192.168.64.3")
B = peer("10.5.65.0", "c6:d2:32:00:00:0b", "192.168.64.4")
WANTED = merge([BASE, A, B])
HOP_A, HOP_B = ("flannel.1", "10.5.64.0", True), ("flannel.1", "10.5.65.0", True)


def found(state: HostState, *changes: frozenset[Any]) -> HostState:
    """What a dump of this state returns: links carry their marks."""
    marked = frozenset(replace(link, alias="flatmesh") for link in state.of(Link))
    state = state.replacing(Link, marked)
    for values in changes:
        state = state.replacing(type(next(iter(values))), values)
    return state


def diff(
    desired: HostState,
    actual: HostState,
    *,
    nexthops: NexthopTable | None = None,
    whole: bool = True,
) -> Plan:
    known = HostState([nexthops] if nexthops is not None else [])
    return plan_diff(desired, actual | known, whole=whole)


def test_from_nothing_referents_come_first() -> None:
    assert diff(WANTED, HostState(), nexthops=NexthopTable()).lines() == [
        "sysctl -w net.ipv4.ip_forward=1",
        (
            "ip link add flannel.1 address c6:d2:32:6f:8f:44 mtu 1450 type vxlan id 1 dev eth0 "
            "local 192.168.64.2 dstport 8472 nolearning"
        ),
        "ip link set flannel.1 alias flatmesh addrgenmode none up",
        "sysctl -w net/ipv4/conf/flannel.1/rp_filter=0",
        "ip addr replace 10.5.76.0/32 dev flannel.1",
        (
            "nft add table inet flatmesh ; flush table inet flatmesh ; table inet flatmesh { "
            "chain forward { type filter hook forward priority filter; policy accept; "
            "ip saddr 10.5.0.0/16 accept ; } ; }"
        ),
        "ip neigh replace 10.5.64.0 lladdr c6:d2:32:00:00:0a dev flannel.1 nud permanent",
        "ip neigh replace 10.5.65.0 lladdr c6:d2:32:00:00:0b dev flannel.1 nud permanent",
        "bridge fdb replace c6:d2:32:00:00:0a dev flannel.1 dst 192.168.64.3 self permanent",
        "bridge fdb replace c6:d2:32:00:00:0b dev flannel.1 dst 192.168.64.4 self permanent",
        "ip nexthop add id 102000001 via 10.5.64.0 dev flannel.1 onlink proto 102",
        "ip nexthop add id 102000002 via 10.5.65.0 dev flannel.1 onlink proto 102",
        "ip route replace 10.5.64.0/24 via 10.5.64.0 dev flannel.1 onlink proto 102",
        "ip route replace 10.5.65.0/24 via 10.5.65.0 dev flannel.1 onlink proto 102",
    ]


def test_without_nexthop_objects_only_the_nexthops_are_missing() -> None:
    with_objects = diff(WANTED, HostState(), nexthops=NexthopTable()).lines()
    plain = diff(WANTED, HostState()).lines()
    assert plain == [line for line in with_objects if "nexthop" not in line]


def test_to_nothing_is_the_reverse() -> None:
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8})
    assert diff(HostState(), found(merge([A, B])), nexthops=nexthops).lines() == [
        "ip route del 10.5.64.0/24 proto 102",
        "ip route del 10.5.65.0/24 proto 102",
        "ip nexthop del id 7",
        "ip nexthop del id 8",
        "bridge fdb del c6:d2:32:00:00:0a dev flannel.1 dst 192.168.64.3 self",
        "bridge fdb del c6:d2:32:00:00:0b dev flannel.1 dst 192.168.64.4 self",
        "ip neigh del 10.5.64.0 dev flannel.1",
        "ip neigh del 10.5.65.0 dev flannel.1",
    ]


def test_a_device_that_goes_takes_along_what_is_on_it() -> None:
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8})
    assert diff(HostState(), found(WANTED), nexthops=nexthops).lines() == [
        "ip link del flannel.1",
        "nft delete table inet flatmesh",
    ]


def test_many_routes_are_deleted_before_their_device() -> None:
    many = [f"10.{n // 256}.{n % 256}.0" for n in range(FLUSHED_BY_KERNEL + 1)]
    routes = frozenset(Route(f"{s}/24", "flannel.1", s, onlink=True) for s in many)
    nexthops = NexthopTable({r[1:4]: n for n, r in enumerate(routes, 1)})
    steps = diff(HostState(), found(BASE.replacing(Route, routes)), nexthops=nexthops).steps
    assert [(s.verb, s.kind, len(s.objects)) for s in steps[:3]] == [
        ("delete", "route", len(many)),
        ("delete nexthop", "route", len(many)),
        ("delete", "link", 1),
    ]


def test_what_is_right_is_left_alone() -> None:
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8})
    plan = diff(WANTED, found(WANTED), nexthops=nexthops)
    assert plan.lines() == []
    assert not plan


def test_a_peer_that_changed_its_vtep_is_replaced_not_removed() -> None:
    changed = peer("10.5.64.0", "c6:d2:32:00:00:ff", "192.168.64.3")
    assert diff(merge([BASE, changed, B]), found(WANTED)).lines() == [
        "ip neigh replace 10.5.64.0 lladdr c6:d2:32:00:00:ff dev flannel.1 nud permanent",
        "bridge fdb replace c6:d2:32:00:00:ff dev flannel.1 dst 192.168.64.3 self permanent",
        "bridge fdb del c6:d2:32:00:00:0a dev flannel.1 dst 192.168.64.3 self",
    ]


def test_from_tunnel_to_direct_route_without_a_gap() -> None:
    direct = HostState(routes=frozenset([Route("10.5.64.0/24", "eth0", "192.168.64.3")]))
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8}, top=102_000_005)
    assert diff(merge([BASE, direct, B]), found(WANTED), nexthops=nexthops).lines() == [
        "ip nexthop add id 102000006 via 192.168.64.3 dev eth0 proto 102",
        "ip route replace 10.5.64.0/24 via 192.168.64.3 dev eth0 proto 102",
        "ip nexthop del id 7",
        "bridge fdb del c6:d2:32:00:00:0a dev flannel.1 dst 192.168.64.3 self",
        "ip neigh del 10.5.64.0 dev flannel.1",
    ]


def test_from_vxlan_to_host_gw_the_device_goes_last() -> None:
    host_gw = HostState(
        routes=frozenset(
            [
                Route("10.5.64.0/24", "eth0", "192.168.64.3"),
                Route("10.5.65.0/24", "eth0", "192.168.64.4"),
            ]
        ),
        sysctls=BASE.of(Sysctl),
        tables=BASE.of(NftTable),
    )
    assert diff(host_gw, found(WANTED)).lines() == [
        "ip route replace 10.5.64.0/24 via 192.168.64.3 dev eth0 proto 102",
        "ip route replace 10.5.65.0/24 via 192.168.64.4 dev eth0 proto 102",
        "ip link del flannel.1",
    ]


def test_a_vxlan_with_another_vni_is_made_anew_with_all_that_is_on_it() -> None:
    other = replace(FOUND_VTEP, details=Vxlan(2, 8472, "192.168.64.2", "eth0"))
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8}, top=102_000_000)
    lines = diff(WANTED, found(WANTED, frozenset([other])), nexthops=nexthops).lines()
    assert lines[:3] == [
        "ip link del flannel.1",
        (
            "ip link add flannel.1 address c6:d2:32:6f:8f:44 mtu 1450 type vxlan id 1 dev eth0 "
            "local 192.168.64.2 dstport 8472 nolearning"
        ),
        "ip link set flannel.1 alias flatmesh addrgenmode none up",
    ]
    from_nothing = diff(WANTED, found(HostState(), BASE.of(Sysctl), BASE.of(NftTable)))
    expected = [line for line in from_nothing.lines() if not line.startswith("ip link")]
    assert [line for line in lines[3:] if "nexthop" not in line] == expected
    assert sum("nexthop add" in line for line in lines) == 2
    assert not any("nexthop del" in line for line in lines)


def test_underlay_device_that_is_not_named_may_be_any() -> None:
    loose = replace(VTEP, details=Vxlan(1, 8472, "192.168.64.2"))
    assert not diff(HostState(links=frozenset([loose])), found(BASE).replacing(NftTable, [])).steps[
        1:
    ]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"mtu": 1300}, "ip link set flannel.1 mtu 1450"),
        ({"mac": "02:00:00:00:00:01"}, "ip link set flannel.1 address c6:d2:32:6f:8f:44"),
        ({"up": False}, "ip link set flannel.1 up"),
        ({"addrgenmode": "eui64"}, "ip link set flannel.1 addrgenmode none"),
        ({"alias": ""}, "ip link set flannel.1 alias flatmesh"),
    ],
)
def test_device_is_changed_in_place_where_that_is_possible(
    wrong: dict[str, object], line: str
) -> None:
    links = frozenset([replace(FOUND_VTEP, **wrong)])  # type: ignore[arg-type]
    assert diff(BASE, found(BASE, links)).lines() == [line]


def test_flannelds_unmarked_routes_are_taken_over_and_its_stale_ones_go() -> None:
    (right,) = A.of(Route)
    stale = Route("10.5.99.0/24", "flannel.1", "10.5.99.0", onlink=True)
    there = frozenset(map(UnmarkedRoute, (right, stale)))
    actual = found(merge([BASE, A]).replacing(Route, []), there)
    assert diff(merge([BASE, A]), actual).lines() == [
        "ip route replace 10.5.64.0/24 via 10.5.64.0 dev flannel.1 onlink proto 102",
        "ip route del 10.5.99.0/24 via 10.5.99.0 dev flannel.1",
    ]


def test_double_of_a_route_goes_first_and_the_right_one_is_put_again() -> None:
    double = Route("10.5.64.0/24", "eth0", "192.168.64.9")
    lines = diff(WANTED, found(WANTED, WANTED.of(Route) | {double})).lines()
    assert lines == [
        "ip route del 10.5.64.0/24 proto 102",
        "ip route replace 10.5.64.0/24 via 10.5.64.0 dev flannel.1 onlink proto 102",
    ]


def test_double_of_a_nexthop_object_goes() -> None:
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8}, doubles=[Nexthop(9, *HOP_A)])
    assert diff(WANTED, found(WANTED), nexthops=nexthops).lines() == ["ip nexthop del id 9"]


def test_nexthop_ids_in_use_by_others_are_left_out() -> None:
    taken = NexthopTable(used={102_000_001, 102_000_002})
    plan = diff(A, HostState(), nexthops=taken)
    (routes,) = (step for step in plan.steps if step.verb == "add" and step.kind == "route")
    assert routes.data == {HOP_A: 102_000_003}


def test_gateways_are_shared_by_routes() -> None:
    two = HostState(
        routes=frozenset(
            [
                Route("10.5.64.0/24", "eth0", "192.168.64.3"),
                Route("10.5.65.0/24", "eth0", "192.168.64.3"),
            ]
        )
    )
    lines = diff(two, HostState(), nexthops=NexthopTable()).lines()
    assert sum("nexthop" in line for line in lines) == 1


def test_a_part_of_the_state_never_sweeps_nexthops() -> None:
    nexthops = NexthopTable({HOP_A: 7, HOP_B: 8})
    plan = diff(HostState(), A, nexthops=nexthops, whole=False)
    assert not any("nexthop" in line for line in plan.lines())
    assert len(plan) == 3


def test_addresses_are_added_before_the_old_ones_go() -> None:
    new = BASE.replacing(Address, [Address("flannel.1", "10.5.80.0/32")])
    assert diff(new, found(BASE)).lines() == [
        "ip addr replace 10.5.80.0/32 dev flannel.1",
        "ip addr del 10.5.76.0/32 dev flannel.1",
    ]


def test_only_marked_devices_are_stale() -> None:
    foreign = Link("br0", "bridge", alias="", details=Bridge())
    assert diff(HostState(), HostState(links=frozenset([foreign, FOUND_VTEP]))).lines() == [
        "ip link del flannel.1"
    ]


def test_a_foreign_device_in_the_way_is_a_conflict() -> None:
    foreign = Link("flannel.1", "bridge", alias="")
    plan = diff(BASE, HostState(links=frozenset([foreign])))
    assert plan.conflicts == [
        (
            "device flannel.1 exists, is of type bridge and not ours, a vxlan of this name is "
            "wanted: rename or remove it"
        )
    ]
    assert not any("ip link" in line for line in plan.lines())


def test_a_foreign_bridge_is_used_but_not_marked() -> None:
    wanted = HostState(links=frozenset([Link("br0", "bridge", mtu=1400)]))
    foreign = Link("br0", "bridge", mtu=1500, alias="somebody", details=Bridge())
    assert diff(wanted, HostState(links=frozenset([foreign]))).lines() == [
        "ip link set br0 mtu 1400"
    ]


def test_missing_hardware_can_not_be_made() -> None:
    plan = diff(HostState(links=frozenset([Link("eth7")])), HostState())
    assert plan.conflicts == ["device eth7 is not there, and we can't make it"]


def test_bridge_comes_before_its_ports_and_a_pair_is_made_once() -> None:
    wanted = HostState(
        links=frozenset(
            [
                Link("a0", "veth", mtu=1400, master="z-bridge", details=Veth("a1")),
                Link("a1", "veth", mtu=1400, details=Veth("a0")),
                Link("z-bridge", "bridge", details=Bridge(vlan_filtering=True)),
            ]
        )
    )
    assert diff(wanted, HostState()).lines() == [
        "ip link add z-bridge type bridge vlan_filtering 1",
        "ip link add a0 type veth peer name a1",
        "ip link set z-bridge alias flatmesh up",
        "ip link set a0 alias flatmesh mtu 1400 master z-bridge up",
        "ip link set a1 alias flatmesh mtu 1400 up",
    ]


def test_route_attributes_are_in_the_line() -> None:
    route = Route(
        "::/0", "eth0", "fe80::1", source="fd00::2", metric=5, table=77, mtu=1300, advmss=1240
    )
    (line,) = diff(HostState(routes=frozenset([route])), HostState()).lines()
    assert line == (
        "ip -6 route replace default via fe80::1 dev eth0 metric 5 table 77 src fd00::2 "
        "mtu 1300 advmss 1240 proto 102"
    )


def test_plans_with_side_effects_need_a_second_pass() -> None:
    down = frozenset([replace(FOUND_VTEP, up=False)])
    assert diff(WANTED, found(WANTED, down)).disturbing
    assert diff(HostState(), found(WANTED)).disturbing
    assert not diff(WANTED, HostState()).disturbing
    assert not diff(merge([BASE, A]), found(WANTED)).disturbing
    fewer = BASE.replacing(Address, [])
    assert diff(fewer, found(BASE)).disturbing
