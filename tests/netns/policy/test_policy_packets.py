# SPDX-License-Identifier: Apache-2.0
"""Packets between two pods of one bridge, plain and in a VLAN, with and without a policy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from hostnet.conntrack import bridged
from hostnet.kernel import Kernel
from hostnet.netns import run_in
from hostnet.nft.chain_table import ChainTableSocket, changes
from policy.base_chains import PodNetwork
from policy.model import EVERYTHING, Policy
from policy.table import PolicyTable
from tests.unit.policy.examples import known, pod

SETTINGS = Path("/proc/sys/net/bridge")
PODS = (2, 3)


def on(netns: str, command: str, *, check: bool = True) -> str:
    argv = ["ip", "netns", "exec", netns, *command.split()]
    return subprocess.run(argv, capture_output=True, text=True, check=check).stdout


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.kernel("bridge VLANs"))])
def bridge(request: pytest.FixtureRequest, make_netns: Callable[[], str]) -> tuple[str, list[str]]:
    """A host with a bridge and two pods; in VLAN 7 or in none."""
    host, pods = make_netns(), [make_netns() for _ in PODS]
    filtering = " vlan_filtering 1" if request.param else ""
    on(host, f"ip link add br7 type bridge{filtering}")
    on(host, "ip link set br7 up")
    for number, name in zip(PODS, pods, strict=True):
        on(host, f"ip link add veth{number} type veth peer name eth0 netns {name}")
        on(host, f"ip link set veth{number} master br7 up")
        if request.param:
            on(host, f"bridge vlan add dev veth{number} vid 7 pvid untagged")
            on(host, f"bridge vlan del dev veth{number} vid 1")
        on(name, f"ip addr add 10.5.1.{number}/24 dev eth0")
        on(name, f"ip addr add fd00:5:1::{number}/64 dev eth0 nodad")
        on(name, "ip link set eth0 up")
    assert bridged.available()
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        run_in(host, partial((SETTINGS / name).write_text, "0"))
    return host, pods


@pytest.mark.kernel_short
def test_a_policy_holds_between_pods_of_one_bridge(bridge: tuple[str, list[str]]) -> None:
    host, (first, _) = bridge

    def reached() -> list[bool]:
        pings = ("ping -c1 -W1 10.5.1.3", "ping -c1 -W1 fd00:5:1::3")
        return ["1 received" in on(first, ping, check=False) for ping in pings]

    subnets = (ip_network("10.5.1.0/24"), ip_network("fd00:5:1::/64"))
    table = PolicyTable("here", PodNetwork(subnets, ("br7",)))
    table.take(known([pod(f"shop/p{n}", f"10.5.1.{n} fd00:5:1::{n}") for n in PODS]))
    kernel = ChainTableSocket(host)
    try:
        before = table.wanted()
        kernel.apply(changes(kernel.read(before), before))

        def track() -> None:
            with Kernel() as there:
                assert bridged.track(there.socket, "br7", on=True)

        run_in(host, track)
        assert reached() == [True, True]
        table.take(known([], [Policy("shop", "deny", EVERYTHING, ())]))
        kernel.apply(changes(before, table.wanted()))
        assert reached() == [False, False]
    finally:
        kernel.close()
