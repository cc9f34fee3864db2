# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator

import pytest

from hostnet.apply import reconcile
from hostnet.events import Monitor
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.nft_table import NftTable
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.ownership import TRIAL_LINK
from hostnet.state import HostState, merge

BASE = HostState(
    links=frozenset(
        [
            Link(
                "flannel.1",
                "vxlan",
                mtu=1450,
                mac="c6:d2:32:6f:8f:44",
                addrgenmode="none",
                details=Vxlan(1, 8472, "192.168.64.2", "eth0"),
            )
        ]
    ),
    addresses=frozenset([Address("flannel.1", "10.5.76.0/32")]),
)
TABLE = NftTable("inet", "flatmesh", "chain a {\n\tip saddr 10.5.0.0/16 accept\n}")
DEADLINE = 10_000  # milliseconds


def peer(number: int) -> HostState:
    high, low = divmod(number, 256)
    subnet, mac = f"10.{64 + high}.{low}.0", f"c6:d2:33:00:{high:02x}:{low:02x}"
    return HostState(
        routes=frozenset([Route(f"{subnet}/24", "flannel.1", subnet, onlink=True)]),
        neighbours=frozenset([Neighbour("flannel.1", subnet, mac)]),
        fdb=frozenset([FdbEntry("flannel.1", mac, f"192.168.{65 + high}.{low}")]),
    )


WANTED = merge([BASE, peer(0), peer(1)])


def run(netns: str, command: str) -> None:
    words = command.split()
    argv = ["ip", "netns", "exec", netns, *words] if words[0] == "nft" else words
    if argv is words:
        tool = words.pop(0) if words[0] == "bridge" else "ip"
        argv = [tool, "-n", netns, *words]
    subprocess.run(argv, check=True, capture_output=True)


def news(monitor: Monitor) -> list[str]:
    """Wait for a reason to look at the kernel, and return all of them."""
    poll = select.poll()
    poll.register(monitor.fileno(), select.POLLIN)
    return monitor.drain() if poll.poll(DEADLINE) else []


def everything_said(monitor: Monitor, netns: str) -> list[str]:
    """All reasons up to one that this function causes itself, which comes last."""
    run(netns, "link add marker type bridge")
    reasons: list[str] = []
    run(netns, "link del marker")
    while not any("marker was deleted" in reason for reason in reasons):
        found = news(monitor)
        assert found, "the marker never came"
        reasons += found
    return [reason for reason in reasons if "marker" not in reason]


@pytest.fixture
def kernel(host: str) -> Iterator[Kernel]:
    with Kernel(host) as opened:
        yield opened


@pytest.fixture
def monitor(host: str, kernel: Kernel) -> Iterator[Monitor]:
    assert reconcile(WANTED, kernel).ok
    with Monitor(host, ignore=[kernel.socket.port], kinds=kernel.kinds) as opened:
        yield opened


@pytest.mark.parametrize(
    ("drift", "reason"),
    [
        ("link del flannel.1", "device flannel.1 was deleted"),
        ("link set flannel.1 mtu 1300", "device flannel.1 changed"),
        ("link set eth0 down", "device eth0 changed"),
        ("link set eth0 mtu 1400", "device eth0 changed"),
        ("addr del 192.168.64.2/24 dev eth0", "address 192.168.64.2/24 came or went"),
        ("addr add 192.168.64.3/24 dev eth0", "address 192.168.64.3/24 came or went"),
        ("addr del fd00:1::2/64 dev eth0", "address fd00:1::2/64 came or went"),
        ("route del 10.64.1.0/24", "route 10.64.1.0/24 was deleted"),
        ("route replace 10.64.1.0/24 dev eth0 proto 102", "route 10.64.1.0/24 was set"),
        ("route del default", "route 0.0.0.0/0 was deleted"),
        ("neigh del 10.64.1.0 dev flannel.1", "a neighbour on flannel.1 was deleted"),
        (
            "neigh replace 10.64.1.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
            "a neighbour on flannel.1 was set",
        ),
        (
            "bridge fdb del c6:d2:33:00:00:01 dev flannel.1 dst 192.168.65.1 self",
            "a forwarding entry of flannel.1 was deleted",
        ),
        ("nexthop del id 102000001", "a nexthop object was deleted"),
        ("rule add pref 1000 lookup 77 proto 102", "rule 1000 was set"),
        ("nft add table inet flatmesh", "nftables table flatmesh changed"),
    ],
)
def test_drift_is_reported(monitor: Monitor, host: str, drift: str, reason: str) -> None:
    run(host, drift)
    seen: list[str] = []
    while reason not in seen:
        found = news(monitor)
        assert found or seen, f"nothing was told, wanted {reason!r}"
        assert found, f"only {seen} was told, wanted {reason!r}"
        seen += found


def test_our_own_changes_and_unrelated_ones_are_not_reported(
    monitor: Monitor, kernel: Kernel, host: str
) -> None:
    now = merge([BASE, peer(0), *(peer(n) for n in range(2, 50))])
    before = merge([BASE, peer(0), peer(1)])
    parts = HostState(routes=now.of(Route), neighbours=now.of(Neighbour), fdb=now.of(FdbEntry))
    old = HostState(routes=before.of(Route), neighbours=before.of(Neighbour))
    done = reconcile(parts, kernel, delta_of=old)
    assert done.ok
    assert monitor.settle(done.plans) == []
    for command in (
        "link add vethfeed type veth peer name vethfade",
        "link add kbr0 type bridge",
    ):
        run(host, command)
    assert news(monitor)  # the bridge itself is a reason
    everything_said(monitor, host)
    for command in (
        "link set vethfeed master kbr0",
        "link set vethfeed up",
        "link set vethfade up",
        "addr add 10.9.9.9/32 dev vethfade",
        "neigh add 192.168.64.7 lladdr 02:00:00:00:00:07 dev eth0 nud reachable",
        "neigh del 192.168.64.7 dev eth0",
        "route add 10.201.0.0/24 via 192.168.64.7",
        "route del 10.201.0.0/24",
        "addr change fd00:1::2/64 dev eth0 nodad valid_lft 3600 preferred_lft 1800",
        "addr change fd00:1::2/64 dev eth0 nodad valid_lft 3601 preferred_lft 1801",
        "nft add table inet somebody-else",
        "nft delete table inet somebody-else",
        "link set vethfeed nomaster",
        "link del vethfeed",
    ):
        run(host, command)
    told = everything_said(monitor, host)
    assert [t for t in told if "kbr0" not in t] == []


def test_a_foreign_change_is_reported_while_our_socket_is_ignored(
    monitor: Monitor, host: str
) -> None:
    with Kernel(host) as other:
        reconcile(merge([BASE, peer(0), peer(1), peer(7)]), other)
    assert any("10.64.7.0/24" in reason for reason in everything_said(monitor, host))


def test_an_overrun_is_reported_and_the_monitor_goes_on(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostnet.events.RECEIVE_BUFFER", 32768)
    with Kernel(host) as kernel, Monitor(host) as monitor:
        assert reconcile(merge([BASE, *(peer(n) for n in range(200))]), kernel).ok
        assert "more happened than the socket's buffer holds" in news(monitor)
        assert monitor.drain() == []
        run(host, "link set eth0 mtu 1400")
        assert "device eth0 changed" in everything_said(monitor, host)


def test_deletions_of_a_plan_are_not_reported_and_those_of_others_are(
    monitor: Monitor, kernel: Kernel, host: str
) -> None:
    monitor.drain()
    left = reconcile(HostState(), kernel, delta_of=peer(1))
    assert left.ok
    assert monitor.settle(left.plans) == []
    run(host, "bridge fdb del c6:d2:33:00:00:00 dev flannel.1 dst 192.168.65.0 self")
    again = reconcile(peer(1), kernel, delta_of=HostState())
    assert monitor.settle(again.plans) == ["a forwarding entry of flannel.1 was deleted"]


def test_drain_never_waits_and_is_empty_when_nothing_happened(monitor: Monitor) -> None:
    monitor.drain()
    assert monitor.drain() == []


def test_a_device_that_is_only_tried_is_no_reason_to_look_again(netns: str) -> None:
    """Else a tunnel that can't be made would be tried, and so told of, without an end."""
    run(netns, "link add eth0 type veth peer name eth1")
    with Monitor(netns) as monitor:
        run(netns, f"link add {TRIAL_LINK} type vxlan id 7 dstport 8473 dev eth0")
        run(netns, f"link set {TRIAL_LINK} up")
        run(netns, f"link del {TRIAL_LINK}")
        assert [one for one in everything_said(monitor, netns) if TRIAL_LINK in one] == []
