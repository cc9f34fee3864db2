# SPDX-License-Identifier: Apache-2.0
"""Each kind of object, changed in each way by another program: told by an event, and put right."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.events import Monitor
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.veth import Veth
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.nft_table import NftTable
from hostnet.kinds.route_messages import Route
from hostnet.kinds.rule import Rule
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.sysctl import Sysctl

DEADLINE = 20.0
MAC = "c6:d2:33:00:00:01"
VTEP = Link(
    *("flannel.1", "vxlan"),
    mtu=1450,
    mac="c6:d2:32:6f:8f:44",
    addrgenmode="none",
    details=Vxlan(1, 8472, "192.168.64.2", "eth0"),
)
VTEP6 = Link(
    *("flannel-v6.1", "vxlan"),
    mtu=1430,
    mac="c6:d2:32:6f:8f:46",
    addrgenmode="none",
    details=Vxlan(1, 8472, "fd00:1::2", "eth0"),
)
WANTED = HostState(
    [VTEP, VTEP6],
    [
        Link("pair-a", "veth", details=Veth("pair-b")),
        Link("pair-b", "veth", details=Veth("pair-a")),
    ],
    [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1")],
    [Address("flannel.1", "10.5.76.0/32"), Address("flannel-v6.1", "fc00:0:0:4c::/128")],
    [
        Route("10.64.1.0/24", "flannel.1", "10.64.1.0", onlink=True),
        Route("fc00:0:0:1::/64", "flannel-v6.1", "fc00:0:0:1::", onlink=True),
        Route("10.64.9.0/24", "eth0", "192.168.64.9"),
        Route("fc00:0:0:9::/64", "eth0", "fd00:1::9"),
    ],
    [Rule(4, 1000, 77)],
    [
        Neighbour("flannel.1", "10.64.1.0", MAC),
        Neighbour("flannel-v6.1", "fc00:0:0:1::", MAC),
    ],
    [
        FdbEntry("flannel.1", MAC, "192.168.65.1"),
        FdbEntry("flannel-v6.1", MAC, "fd00:1::3"),
    ],
    [NftTable("inet", "flatmesh", "chain a {\n\tip saddr 10.5.0.0/16 accept\n}")],
)

DRIFTS = {
    "link": {
        "deleted": "link del flannel.1",
        "down": "link set flannel.1 down",
        "MTU": "link set flannel.1 mtu 1300",
        "MAC": "link set flannel.1 address 02:00:00:00:00:07",
        "alias": "link set flannel.1 alias mine",
        "TTL": "link set flannel.1 type vxlan ttl 1",
        "local": "link set flannel.1 type vxlan local 192.168.64.77",
        "learning": "link set flannel.1 type vxlan learning",
        "master": "link set flannel.1 master foreign",
    },
    "veth pair": {
        "deleted": "link del pair-a",
        "down": "link set pair-b down",
        "other": "link del pair-a | link add pair-a type veth peer name pair-b",
    },
    "address": {
        "deleted": "addr del 10.5.76.0/32 dev flannel.1",
        "deleted (IPv6)": "addr del fc00:0:0:4c::/128 dev flannel-v6.1",
        "foreign": "addr add 10.99.0.1/24 dev flannel.1",
    },
    "neighbour": {
        "deleted": "neigh del V4 dev flannel.1",
        "overwritten": "neigh replace V4 lladdr OTHER dev flannel.1 nud permanent",
        "overwritten (IPv6)": "neigh replace V6 lladdr OTHER dev flannel-v6.1 nud permanent",
        "not permanent": "neigh replace V4 lladdr OTHER dev flannel.1 nud reachable",
        "foreign": "neigh add 10.64.7.7 lladdr OTHER dev flannel.1 nud permanent",
    },
    "FDB entry": {
        "deleted": "bridge fdb del MAC dev flannel.1 dst 192.168.65.1 self",
        "overwritten": "bridge fdb replace MAC dev flannel.1 dst 192.168.65.9 self permanent",
        "overwritten (IPv6)": "bridge fdb replace MAC dev flannel-v6.1 dst fd00:1::9 self",
        "port": "bridge fdb replace MAC dev flannel.1 dst 192.168.65.1 port 4789 self permanent",
        "VNI": "bridge fdb replace MAC dev flannel.1 dst 192.168.65.1 vni 9 self permanent",
        "ageing": "bridge fdb replace MAC dev flannel.1 dst 192.168.65.9 self dynamic",
        "foreign": "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 192.168.65.9 self",
    },
    "route": {
        "deleted": "route del V4/24",
        "deleted (IPv6)": "-6 route del V6/64",
        "overwritten": "route replace V4/24 via 192.168.64.9",
        "overwritten (IPv6)": "-6 route replace V6/64 via fd00:1::9",
        "overwritten by a blackhole": "route replace blackhole V4/24",
        "overwritten by a blackhole (IPv6)": "-6 route replace blackhole V6/64 metric 1024",
        "overwritten, plain": "route replace unreachable 10.64.9.0/24",
        "overwritten, other protocol": "route replace 10.64.9.0/24 via 192.168.64.8 proto static",
        "multipath": "route replace 10.64.9.0/24 nexthop via 192.168.64.7 nexthop via 192.168.64.8",
        "foreign, preferred": "route prepend V4/24 via 192.168.64.9",
        "foreign, preferred (IPv6)": "-6 route add V6/64 via fd00:1::9 metric 5",
        "foreign, preferred blackhole (IPv6)": "-6 route add blackhole fc00:0:0:9::/64 metric 5",
        "foreign by our device": "route add 10.77.0.0/16 dev flannel.1",
    },
    "nexthop object": {
        "deleted": "nexthop del id HOP",
        "overwritten": "nexthop replace id HOP via 192.168.64.9 dev eth0",
        "overwritten, our mark": "nexthop replace id HOP via 192.168.64.9 dev eth0 proto 102",
        "overwritten by a blackhole": "nexthop replace id HOP blackhole",
    },
    "rule": {
        "deleted": "rule del pref 1000",
        "foreign with our mark": "rule add pref 1001 lookup 78 proto 102",
    },
    "sysctl": {
        "forwarding of": "sysctl -w net.ipv4.ip_forward=0",
        "forwarding off (IPv6)": "sysctl -w net.ipv6.conf.all.forwarding=0",
    },
    "nftables table": {
        "deleted": "nft delete table inet flatmesh",
        "flushed": "nft flush chain inet flatmesh a",
        "overwritten": "nft insert rule inet flatmesh a drop",
        "whole ruleset flushed": "nft flush ruleset",
        "foreign chain": "nft add chain inet flatmesh b",
    },
}
CASES = [(kind, way) for kind, ways in DRIFTS.items() for way in ways]
SHORT = {
    "MAC": MAC,
    "OTHER": "02:00:00:00:00:07",
    "V4": "10.64.1.0",
    "V6": "fc00:0:0:1::",
}
"""Words in the commands above; HOP is the id of the nexthop object of the route to V4/24."""


def run(netns: str, command: str) -> None:
    for line in command.split(" | "):
        words = line.split()
        if words[0] in ("nft", "sysctl"):
            argv = ["ip", "netns", "exec", netns, *words]
        else:
            tool = words.pop(0) if words[0] == "bridge" else "ip"
            argv = [tool, "-n", netns, *words]
        subprocess.run(argv, check=True, capture_output=True, text=True)


def nexthop_id(kernel: Kernel) -> str:
    tables = [one for group in kernel.known().groups() for one in group]
    return str(next(n for table in tables for key, n in table.ids.items() if key[1] == "10.64.1.0"))


@pytest.fixture(scope="module")
def kernel(shared_host: str) -> Iterator[Kernel]:
    run(shared_host, "link add foreign type bridge")
    with Kernel(shared_host) as opened:
        assert reconcile(WANTED, opened).ok
        yield opened


@pytest.fixture(scope="module")
def monitor(shared_host: str, kernel: Kernel) -> Iterator[Monitor]:
    ports = [kernel.socket.port, *kernel.view.ports]
    with Monitor(shared_host, ignore=ports, kinds=kernel.kinds) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "way"), CASES, ids=[f"{k}, {w}" for k, w in CASES])
def test_drift_is_told_and_put_right(
    kernel: Kernel, monitor: Monitor, shared_host: str, kind: str, way: str
) -> None:
    command = DRIFTS[kind][way].replace("HOP", nexthop_id(kernel))
    for word, meaning in SHORT.items():
        command = command.replace(word, meaning)
    monitor.drain()
    run(shared_host, command)
    poll = select.poll()
    poll.register(monitor.fileno(), select.POLLIN)
    reasons: list[str] = []
    while not reasons:
        assert poll.poll(DEADLINE * 1000), "the kernel has told nothing"
        reasons = monitor.drain()
    again = reasons
    while again:
        outcome = reconcile(WANTED, kernel)
        assert outcome.ok, outcome.failures
        monitor.ignore(*kernel.view.ports)
        again = monitor.settle(outcome.plans)
    left = plan_full(WANTED, kernel)
    assert not left, left.lines()
    argv = ["ip", "-n", shared_host, "route", "show", "10.64.1.0/24"]
    state = subprocess.check_output(argv, text=True)
    assert state.count("\n") == 1, state
    assert "via 10.64.1.0 dev flannel.1" in state
