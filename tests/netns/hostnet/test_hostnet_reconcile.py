# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from hostnet import apply as apply_module
from hostnet.apply import plan_full, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.bridge import Bridge
from hostnet.kinds.links.veth import Veth
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.ownership import Mark
from hostnet.state import HostState, merge
from hostnet.sysctl import Sysctl
from tests.netns.hostnet.vxlan_host import BASE, RIGHT, VTEP, WANTED, ip, ip_json, peer, settled


@pytest.fixture(params=["nexthop objects", "plain routes"])
def kernel(request: pytest.FixtureRequest, host: str) -> Iterator[Kernel]:
    with Kernel(host, nexthop_objects=request.param == "nexthop objects") as opened:
        yield opened


def test_everything_is_made_as_wanted_and_a_second_time_changes_nothing(
    kernel: Kernel, host: str
) -> None:
    assert reconcile(WANTED, kernel).failures == []
    settled(kernel)
    assert reconcile(WANTED, kernel).changes == 0

    link = ip_json(host, "ip link show flannel.1")[0]
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], link["address"], link["ifalias"]) == (1450, VTEP.mac, "flatmesh")
    assert (data["id"], data["port"], data["local"], data["link"]) == (
        *(1, 8472, "192.168.64.2", "eth0"),
    )
    assert not data.get("learning")
    assert link["inet6_addr_gen_mode"] == "none"
    routes = ip_json(host, "ip route show dev flannel.1")
    assert {(r["dst"], r["gateway"], r["protocol"]) for r in routes} == {
        (f"10.64.{n}.0/24", f"10.64.{n}.0", "102") for n in range(4)
    }
    assert all("onlink" in r["flags"] for r in routes)
    routes6 = ip_json(host, "ip -6 route show dev flannel-v6.1 proto 102")
    assert {r["dst"] for r in routes6} == {f"fc00:0:1:{n + 1:x}::/64" for n in range(4)}
    assert len(ip_json(host, "ip neigh show dev flannel.1 nud permanent")) == 4
    fdb = ip_json(host, "bridge fdb show dev flannel.1")
    assert {(e["mac"], e["dst"], e["state"]) for e in fdb} == {
        (f"c6:d2:33:00:00:0{n}", f"192.168.65.{n}", "permanent") for n in range(4)
    }
    expected_hops = 8 if kernel.nexthop_objects else 0
    assert len(ip_json(host, "ip nexthop show")) == expected_hops


def test_peers_that_left_are_forgotten(kernel: Kernel, host: str) -> None:
    reconcile(WANTED, kernel)
    fewer = merge([BASE, peer(1)])
    assert reconcile(fewer, kernel).failures == []
    settled(kernel, fewer)
    assert len(ip_json(host, "ip route show proto 102")) == 1
    assert len(ip_json(host, "ip nexthop show")) == (2 if kernel.nexthop_objects else 0)


def test_nothing_wanted_removes_all_that_is_ours_and_nothing_else(
    kernel: Kernel, host: str
) -> None:
    def seen() -> list[str]:
        shown = ip(host, "-o link") + ip(host, "route") + ip(host, "-6 route")
        # the kernel adds link-local ones a moment later
        return [line for line in shown.splitlines() if not line.startswith("fe80:")]

    before = seen()
    reconcile(WANTED, kernel)
    assert reconcile(HostState(), kernel).failures == []
    settled(kernel, HostState())
    assert seen() == before
    assert ip(host, "nexthop") == ""


def test_a_delta_of_parts_adds_replaces_and_removes_one_peer(kernel: Kernel) -> None:
    reconcile(WANTED, kernel)
    moved = peer(1).replacing(FdbEntry, [FdbEntry("flannel.1", "c6:d2:33:00:00:01", "1.2.3.4")])
    assert reconcile(peer(9), kernel, delta_of=HostState()).failures == []
    assert reconcile(moved, kernel, delta_of=peer(1)).failures == []
    assert reconcile(HostState(), kernel, delta_of=peer(2)).failures == []
    now = merge([BASE, peer(0), moved, peer(3), peer(9)])
    leftovers = plan_full(now, kernel).lines()
    assert all(line.startswith("ip nexthop del") for line in leftovers)
    reconcile(now, kernel)
    settled(kernel, now)


def test_a_delta_on_a_kernel_in_another_state_is_reported(kernel: Kernel, host: str) -> None:
    reconcile(WANTED, kernel)
    ip(host, "link del flannel.1")
    outcome = reconcile(peer(9), kernel, delta_of=HostState())
    assert not outcome.ok
    assert any("10.64.9.0/24" in failure.line for failure in outcome.failures)
    now = WANTED | peer(9)
    assert reconcile(now, kernel).ok
    settled(kernel, now)


@pytest.mark.parametrize(
    "sabotage",
    [
        "link del flannel.1",
        "link set flannel.1 down",
        "link set flannel.1 mtu 1300",
        "link set flannel.1 address 02:00:00:00:00:01",
        "link set flannel.1 alias somebody-else",
        "route del 10.64.1.0/24",
        "route replace 10.64.1.0/24 via 192.168.64.9",
        "-6 route del fc00:0:1:2::/64",
        "route add 10.99.0.0/24 via 10.99.0.0 dev flannel.1 onlink proto 102",
        "neigh del 10.64.1.0 dev flannel.1",
        "neigh replace 10.64.1.0 lladdr 02:00:00:00:00:09 dev flannel.1 nud permanent",
        "neigh add 10.99.0.0 lladdr 02:00:00:00:00:09 dev flannel.1 nud permanent",
        "bridge fdb del c6:d2:33:00:00:01 dev flannel.1 dst 192.168.65.1 self",
        "bridge fdb replace c6:d2:33:00:00:01 dev flannel.1 dst 192.168.65.99 self",
        "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.168.65.99 self",
        "route append 10.64.1.0/24 via 192.168.64.9 proto 102",
        "bridge fdb add 02:00:00:00:00:09 dev flannel.1 dst 192.168.65.99 self",
        "addr del 10.5.76.0/32 dev flannel.1",
        "addr add 10.5.77.0/32 dev flannel.1",
        "link set eth0 down",
    ],
)
def test_drift_is_put_right(host: str, sabotage: str) -> None:
    with Kernel(host) as kernel:
        reconcile(WANTED, kernel)
        ip(host, sabotage)
        if sabotage == "link set eth0 down":
            ip(host, "link set eth0 up")
            ip(host, "addr replace fd00:1::2/64 dev eth0 nodad")
        else:
            assert plan_full(WANTED, kernel).lines() != []
        assert reconcile(WANTED, kernel).failures == []
        settled(kernel)


@pytest.mark.parametrize(
    "wrong",
    [
        "id 2 dev eth0 local 192.168.64.2 dstport 8472 nolearning",
        "id 1 dev eth0 local 192.168.64.2 dstport 4789 nolearning",
        "id 1 dev eth0 local 192.168.64.3 dstport 8472 nolearning",
        "id 1 dev eth0 local 192.168.64.2 dstport 8472 learning",
        "id 1 dev eth1 local 192.168.64.2 dstport 8472 nolearning",
    ],
)
def test_vxlan_that_can_not_be_changed_is_made_anew_with_all_that_is_on_it(
    host: str, wrong: str
) -> None:
    with Kernel(host) as kernel:
        reconcile(WANTED, kernel)
        ip(host, "link del flannel.1")
        ip(host, f"link add flannel.1 type vxlan {wrong}")
        ip(host, "link set flannel.1 up alias flatmesh")
        outcome = reconcile(WANTED, kernel)
        assert outcome.failures == []
        assert "ip link del flannel.1" in outcome.lines()
        settled(kernel)


def test_what_a_flanneld_left_is_taken_over_without_touching_the_device(host: str) -> None:
    for command in (
        f"link add flannel.1 address {VTEP.mac} mtu 1450 type vxlan {RIGHT}",
        "link set flannel.1 up",
        "addr add 10.5.76.0/32 dev flannel.1",
        "route add 10.64.1.0/24 via 10.64.1.0 dev flannel.1 onlink",
        "neigh add 10.64.1.0 lladdr c6:d2:33:00:00:01 dev flannel.1 nud permanent",
        "bridge fdb add c6:d2:33:00:00:01 dev flannel.1 dst 192.168.65.1 self",
        # of a host that left while no daemon ran
        "route add 10.77.0.0/24 via 10.77.0.0 dev flannel.1 onlink",
        "neigh add 10.77.0.0 lladdr c6:d2:33:00:00:77 dev flannel.1 nud permanent",
        "bridge fdb add c6:d2:33:00:00:77 dev flannel.1 dst 192.168.65.77 self",
    ):
        ip(host, command)
    index = ip_json(host, "ip link show flannel.1")[0]["ifindex"]
    with Kernel(host) as kernel:
        outcome = reconcile(WANTED, kernel)
        assert outcome.failures == []
        assert not any(re.match("ip link (del|add) flannel.1 ", line) for line in outcome.lines())
        settled(kernel)
    assert ip_json(host, "ip link show flannel.1")[0]["ifindex"] == index
    assert "10.77" not in ip(host, "route") + ip(host, "neigh")
    assert {r["protocol"] for r in ip_json(host, "ip route show dev flannel.1")} == {"102"}


def test_foreign_objects_are_never_touched(kernel: Kernel, host: str) -> None:
    foreign = (
        "link add br7 type bridge",
        "link set br7 up alias somebody",
        "addr add 10.200.0.1/24 dev br7",
        "route add 10.201.0.0/24 via 192.168.64.7",
        "route add 10.202.0.0/24 dev eth0 table 77",
        "neigh add 192.168.64.7 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
        "nexthop add id 7 via 192.168.64.7 dev eth0",
        "route add 10.203.0.0/24 nhid 7",
    )
    for command in foreign:
        ip(host, command)

    def seen() -> list[str]:
        shown = ("-o link show br7", "addr show br7", "route show dev eth0", "route show table 77")
        return [ip(host, c) for c in (*shown, "neigh show dev eth0 nud permanent", "nexthop")]

    before = seen()
    reconcile(WANTED, kernel)
    reconcile(HostState(), kernel)
    assert seen() == before


def test_a_foreign_device_of_our_name_is_reported_and_left_alone(host: str) -> None:
    ip(host, "link add flannel.1 type bridge")
    with Kernel(host) as kernel:
        outcome = reconcile(BASE, kernel)
    assert "device flannel.1 exists, is of type bridge and not ours" in str(outcome.failures[0])
    assert ip_json(host, "ip link show flannel.1")[0]["linkinfo"]["info_kind"] == "bridge"


def test_bridges_and_veths_are_made_and_put_right(kernel: Kernel, host: str) -> None:
    wanted = HostState(
        links=frozenset(
            [
                Link("kbr9", "bridge", mtu=1400, mac="02:00:00:00:00:01", details=Bridge()),
                Link("tap-a", "veth", mtu=1400, master="kbr9", details=Veth("tap-b")),
                Link("tap-b", "veth", mtu=1400, details=Veth("tap-a")),
            ]
        ),
        addresses=frozenset([Address("kbr9", "10.5.76.1/24"), Address("tap-b", "10.9.9.9/32")]),
    )
    assert reconcile(wanted, kernel).failures == []
    settled(kernel, wanted)
    assert ip_json(host, "ip link show tap-a")[0]["master"] == "kbr9"
    ip(host, "link set tap-a nomaster")
    ip(host, "link set kbr9 down")
    assert reconcile(wanted, kernel).failures == []
    settled(kernel, wanted)
    reconcile(HostState(), kernel)
    assert "kbr9" not in ip(host, "-o link")


@pytest.mark.kernel("IFA_PROTO")  # a bridge's addresses are known by it to be ours
def test_addresses_are_added_before_the_old_ones_go(kernel: Kernel, host: str) -> None:
    link = Link("kbr9", "bridge", details=Bridge())
    old = HostState(
        links=frozenset([link]),
        addresses=frozenset([Address("kbr9", "10.5.76.1/24")]),
        routes=frozenset([Route("10.60.0.0/16", "kbr9", scope=253)]),
    )
    reconcile(old, kernel)
    new = old.replacing(Address, [Address("kbr9", "10.5.76.9/24")])
    lines = reconcile(new, kernel).lines()
    assert lines.index("ip addr replace 10.5.76.9/24 dev kbr9") < lines.index(
        "ip addr del 10.5.76.1/24 dev kbr9"
    )
    settled(kernel, new)
    assert "10.60.0.0/16" in ip(host, "route")


def test_route_attributes_reach_the_kernel_and_come_back(kernel: Kernel, host: str) -> None:
    wanted = HostState(
        routes=frozenset(
            [
                Route("10.60.0.0/16", "eth0", "192.168.64.7", metric=50, mtu=1400, advmss=1360),
                Route("10.60.0.0/16", "eth0", "192.168.64.8", metric=60),
                Route("10.61.0.0/16", "eth0", source="192.168.64.2", scope=253),
                Route("10.62.0.0/16", "eth0", "192.168.64.7", table=1000),
                Route("10.63.0.0/16", "eth0", "fd00:1::7"),
                Route("fd00:60::/48", "eth0", "fd00:1::7", metric=7, mtu=1300),
                Route("fd00:61::/48", "eth0", "fd00:1::7", source="fd00:1::2"),
            ]
        )
    )
    assert reconcile(wanted, kernel).failures == []
    settled(kernel, wanted)
    shown = ip(host, "route")
    assert "metric 50 mtu 1400 advmss 1360" in shown
    assert "via inet6 fd00:1::7" in shown
    assert reconcile(HostState(), kernel).failures == []
    assert ip(host, "route show proto 102") + ip(host, "route show table 1000") == ""


def test_one_bad_object_among_many_fails_alone_and_is_named(kernel: Kernel) -> None:
    bad = HostState(
        routes=frozenset([Route("10.70.0.0/16", "no-such-device", "10.70.0.1", onlink=True)]),
        neighbours=frozenset([Neighbour("flannel.1", "10.300.1.1", "02:00:00:00:00:01")]),
    )
    outcome = reconcile(WANTED | bad, kernel)
    named = {failure.line.split()[3] for failure in outcome.failures}
    assert named - {"id"} == {"10.70.0.0/16", "10.300.1.1"}
    settled(kernel)


def test_the_kernels_message_is_in_the_error(host: str) -> None:
    with Kernel(host) as kernel:
        bad = HostState(routes=frozenset([Route("10.70.0.0/16", "eth0", "10.70.0.1")]))
        failures = reconcile(bad, kernel).failures
    assert "Nexthop has invalid gateway" in str(failures[0])


def test_two_owners_share_a_host(host: str) -> None:
    other = Mark(protocol=103, alias="flatmesh-blue", tables=frozenset())
    mine = HostState(routes=frozenset([Route("10.70.0.0/16", "eth0", "192.168.64.7")]))
    theirs = HostState(routes=frozenset([Route("10.71.0.0/16", "eth0", "192.168.64.8")]))
    with Kernel(host) as kernel, Kernel(host, mark=other) as blue:
        reconcile(mine, kernel)
        reconcile(theirs, blue)
        reconcile(HostState(), kernel)
        assert plan_full(theirs, blue).lines() == []
        assert "10.71.0.0/16" in ip(host, "route")
        assert "10.70.0.0/16" not in ip(host, "route")


def test_no_nexthop_compatibility_mode_is_understood(host: str) -> None:
    with Kernel(host, nexthop_objects=True) as kernel:
        compat = HostState(sysctls=frozenset([Sysctl("net/ipv4/nexthop_compat_mode", "0")]))
        reconcile(WANTED | compat, kernel)
        settled(kernel, WANTED | compat)


def test_kernel_detects_nexthop_objects(host: str) -> None:
    with Kernel(host) as kernel:
        assert kernel.nexthop_objects


def test_reconcile_ends_while_another_program_undoes_it(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = apply_module.apply

    def sabotaged(plan: Any, kernel: Kernel) -> Any:
        outcome = real(plan, kernel)
        ip(host, "link set flannel.1 mtu 1300")
        return outcome

    with Kernel(host) as kernel:
        reconcile(BASE, kernel)
        ip(host, "link set flannel.1 mtu 1300")
        monkeypatch.setattr(apply_module, "apply", sabotaged)
        outcome = reconcile(BASE, kernel)
    assert len(outcome.plans) == apply_module.ROUNDS
