# SPDX-License-Identifier: Apache-2.0
"""What another program has made is never displaced: it is reported, with the mend."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from hostnet.apply import Outcome, plan_full, reconcile
from hostnet.events import Monitor
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.kinds.rule import Rule
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState

ROUTES = {
    4: Route("10.60.0.0/16", "eth0", "192.168.64.7"),
    6: Route("fd00:60::/48", "eth0", "fd00:1::7"),
}
FOREIGN_ROUTES = {
    4: "route add 10.60.0.0/16 via 192.168.64.9",
    6: "-6 route add fd00:60::/48 via fd00:1::9",
}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def kernel(host: str) -> Iterator[Kernel]:
    with Kernel(host) as opened:
        yield opened


def ip(netns: str, command: str) -> str:
    words = command.split()
    tool = words.pop(0) if words[0] == "bridge" else "ip"
    return subprocess.run(
        [tool, "-n", netns, *words], capture_output=True, text=True, check=True
    ).stdout


def conflict(outcome: Outcome) -> str:
    """The one conflict's line; nothing else was tried."""
    (failure,) = outcome.failures
    assert outcome.changes == 0, outcome.lines()
    assert "\n" not in str(failure)
    return str(failure)


@FAMILIES
@pytest.mark.parametrize("protocol", ["static", "bird", "99"])
def test_a_foreign_route_at_our_key_stays_and_is_named(
    kernel: Kernel, host: str, family: int, protocol: str
) -> None:
    ip(host, f"{FOREIGN_ROUTES[family]} proto {protocol}")
    before = ip(host, f"-{family} route")
    wanted = HostState([ROUTES[family]])
    (line,) = plan_full(wanted, kernel).conflicts
    assert ROUTES[family].destination in line
    assert "not ours" in line
    assert line in conflict(reconcile(wanted, kernel))
    assert ip(host, f"-{family} route") == before
    assert reconcile(HostState(), kernel).changes == 0
    assert ip(host, f"-{family} route") == before


@FAMILIES
def test_a_foreign_route_of_another_type_at_our_key_stays(
    kernel: Kernel, host: str, family: int
) -> None:
    route = ROUTES[family]
    metric = " metric 1024" if family == 6 else ""
    ip(host, f"-{family} route add unreachable {route.destination}{metric} proto static")
    before = ip(host, f"-{family} route")
    outcome = reconcile(HostState([route]), kernel)
    assert route.destination in str(outcome.failures[0])
    assert ip(host, f"-{family} route") == before


@FAMILIES
def test_a_foreign_route_that_is_made_after_the_look_stays(
    kernel: Kernel, host: str, family: int
) -> None:
    kernel.dump(HostState([ROUTES[family]]))
    ip(host, f"{FOREIGN_ROUTES[family]} proto static")
    outcome = reconcile(HostState([ROUTES[family]]), kernel, delta_of=HostState())
    assert ROUTES[family].destination in str(outcome.failures[0])
    shown = ip(host, f"-{family} route show {ROUTES[family].destination}")
    assert "static" in shown
    assert "proto 102" not in shown


@FAMILIES
def test_a_foreign_route_of_a_higher_metric_or_another_table_is_not_in_the_way(
    kernel: Kernel, host: str, family: int
) -> None:
    ip(host, f"{FOREIGN_ROUTES[family]} proto static metric 2000")
    ip(host, f"{FOREIGN_ROUTES[family]} proto static table 77")
    assert reconcile(HostState([ROUTES[family]]), kernel).failures == []
    assert plan_full(HostState([ROUTES[family]]), kernel).lines() == []
    assert reconcile(HostState(), kernel).failures == []
    assert "static" in ip(host, f"-{family} route")


@pytest.mark.parametrize("protocol", ["static", "bird"])
def test_a_route_that_the_kernel_prefers_to_ours_is_reported_or_deleted(
    kernel: Kernel, host: str, protocol: str
) -> None:
    """One that was there before ours stays, and one of a routing daemon; all are told of."""
    other = FOREIGN_ROUTES[6]
    ip(host, f"{other} proto static metric 50")
    wanted = HostState([ROUTES[6]])
    for _ in range(2):
        (failure,) = reconcile(wanted, kernel).failures
        assert ROUTES[6].destination in str(failure)
    ip(host, f"{other} proto static metric 50".replace("route add", "route del"))
    with Monitor(host, ignore=[kernel.socket.port], kinds=kernel.kinds) as monitor:
        ip(host, f"{other} proto {protocol} metric 40")
        assert f"route {ROUTES[6].destination} was set" in monitor.drain()
    outcome = reconcile(wanted, kernel)
    assert outcome.ok is (protocol == "static")
    assert ("metric 40" in ip(host, "-6 route")) is (protocol != "static")


@FAMILIES
def test_the_route_of_a_flanneld_that_has_gone_is_taken_over(
    kernel: Kernel, host: str, family: int
) -> None:
    """host-gw's routes bear no mark, and no device of their own tells whose they are."""
    ip(
        host,
        FOREIGN_ROUTES[family].replace("9", "7", 1)
        if family == 6
        else "route add 10.60.0.0/16 via 192.168.64.7",
    )
    wanted = HostState([ROUTES[family]])
    assert reconcile(wanted, kernel).failures == []
    assert plan_full(wanted, kernel).lines() == []
    assert "proto 102" in ip(host, f"-{family} route show {ROUTES[family].destination}")


@FAMILIES
def test_a_foreign_permanent_neighbour_stays(kernel: Kernel, host: str, family: int) -> None:
    address = {4: "192.168.64.7", 6: "fd00:1::7"}[family]
    ip(host, f"neigh add {address} lladdr 02:00:00:00:00:07 dev eth0 nud permanent")
    before = ip(host, f"-{family} neigh show dev eth0 nud permanent")
    wanted = HostState([Neighbour("eth0", address, "02:00:00:00:00:08")])
    assert address in conflict(reconcile(wanted, kernel))
    assert ip(host, f"-{family} neigh show dev eth0 nud permanent") == before
    outcome = reconcile(wanted, kernel, delta_of=HostState())
    assert address in str(outcome.failures[0])
    assert ip(host, f"-{family} neigh show dev eth0 nud permanent") == before


@FAMILIES
def test_a_neighbour_that_the_kernel_learned_is_no_obstacle(
    kernel: Kernel, host: str, family: int
) -> None:
    address = {4: "192.168.64.7", 6: "fd00:1::7"}[family]
    ip(host, f"neigh add {address} lladdr 02:00:00:00:00:07 dev eth0 nud reachable")
    wanted = HostState([Neighbour("eth0", address, "02:00:00:00:00:08")])
    assert reconcile(wanted, kernel).failures == []
    shown = ip(host, f"-{family} neigh show {address} dev eth0")
    assert "02:00:00:00:00:08" in shown
    assert "PERMANENT" in shown
    assert plan_full(wanted, kernel).lines() == []


@FAMILIES
def test_a_foreign_forwarding_entry_stays(kernel: Kernel, host: str, family: int) -> None:
    local, theirs, ours = {
        4: ("192.168.64.2", "192.168.65.9", "192.168.65.1"),
        6: ("fd00:1::2", "fd00:2::9", "fd00:2::1"),
    }[family]
    ip(host, f"link add vx7 type vxlan id 7 dev eth0 local {local} dstport 4789 nolearning")
    ip(host, f"bridge fdb add 02:00:00:00:00:07 dev vx7 dst {theirs} self")
    before = ip(host, "bridge fdb show dev vx7")
    wanted = HostState([FdbEntry("vx7", "02:00:00:00:00:07", ours)])
    assert "02:00:00:00:00:07" in conflict(reconcile(wanted, kernel))
    assert ip(host, "bridge fdb show dev vx7") == before
    outcome = reconcile(wanted, kernel, delta_of=HostState())
    assert "02:00:00:00:00:07" in str(outcome.failures[0])
    assert ip(host, "bridge fdb show dev vx7") == before


@FAMILIES
def test_a_foreign_rule_stays(kernel: Kernel, host: str, family: int) -> None:
    ip(host, f"-{family} rule add pref 1000 fwmark 0x10/0xff lookup 77 proto static")
    before = ip(host, f"-{family} rule")
    wanted = HostState([Rule(family, 1000, 77, mark=0x10, mask=0xFF)])
    assert "pref 1000" in conflict(reconcile(wanted, kernel))
    assert ip(host, f"-{family} rule") == before
    assert reconcile(HostState(), kernel).changes == 0
    assert ip(host, f"-{family} rule") == before


def test_a_rule_of_ours_is_made_seen_and_swept(kernel: Kernel, host: str) -> None:
    wanted = HostState(
        [
            Rule(4, 1000, 77, mark=0x10, mask=0xFF, iif="eth0"),
            Rule(6, 1001, 1077, mark=0x10, mask=0x10),
        ]
    )
    assert reconcile(wanted, kernel).lines() == [
        "ip rule add pref 1000 fwmark 0x10/0xff iif eth0 lookup 77",
        "ip -6 rule add pref 1001 fwmark 0x10/0x10 lookup 1077",
    ]
    assert plan_full(wanted, kernel).lines() == []
    assert "fwmark 0x10/0xff iif eth0 lookup 77 proto 102" in ip(host, "rule")
    assert len(reconcile(HostState(), kernel).lines()) == 2
    assert "102" not in ip(host, "rule") + ip(host, "-6 rule")


def test_a_nexthop_id_that_is_in_use_is_left_out(kernel: Kernel, host: str) -> None:
    for number in (102000001, 102000002):
        ip(host, f"nexthop add id {number} via 192.168.64.9 dev eth0")
    before = ip(host, "nexthop")
    assert reconcile(HostState([ROUTES[4]]), kernel).failures == []
    assert plan_full(HostState([ROUTES[4]]), kernel).lines() == []
    assert reconcile(HostState(), kernel).failures == []
    assert ip(host, "nexthop") == before


def test_a_nexthop_id_that_is_taken_after_the_look_stays(kernel: Kernel, host: str) -> None:
    kernel.dump(HostState([ROUTES[4]]))
    ip(host, "nexthop add id 102000001 via 192.168.64.9 dev eth0")
    before = ip(host, "nexthop")
    outcome = reconcile(HostState([ROUTES[4]]), kernel, delta_of=HostState())
    assert any("102000001" in str(failure) for failure in outcome.failures)
    assert ip(host, "nexthop") == before
    assert reconcile(HostState([ROUTES[4]]), kernel).failures == []


def test_an_equal_address_of_others_is_used_and_left(kernel: Kernel, host: str) -> None:
    before = ip(host, "addr show eth0")
    assert reconcile(HostState([Address("eth0", "192.168.64.2/24")]), kernel).changes == 0
    assert reconcile(HostState(), kernel).changes == 0
    assert ip(host, "addr show eth0") == before


def test_a_vxlan_device_with_another_programs_alias_is_not_made_anew(
    kernel: Kernel, host: str
) -> None:
    ip(host, "link add vx7 type vxlan id 7 dev eth0 local 192.168.64.2 dstport 4789 nolearning")
    ip(host, "link set vx7 alias somebody")
    before = ip(host, "-d link show vx7")
    wanted = HostState([Link("vx7", "vxlan", details=Vxlan(8, 4789, "192.168.64.2", "eth0"))])
    assert "vx7" in conflict(reconcile(wanted, kernel))
    assert ip(host, "-d link show vx7") == before
