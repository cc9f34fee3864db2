# SPDX-License-Identifier: Apache-2.0
"""What a host has once: the pods' bridge, TUN devices, offload settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.find_link import find_link
from hostnet.kernel import Kernel
from hostnet.kinds.gateway_bridge import GatewayBridge
from hostnet.kinds.link import Link
from hostnet.kinds.links.tun import Tun
from hostnet.kinds.links.veth import Veth
from hostnet.kinds.offload import TxChecksum
from hostnet.kinds.route_messages import Route
from hostnet.kinds.tun import attach
from hostnet.netlink.address_messages import Address
from hostnet.netns import run_in
from hostnet.ownership import OVERLAY
from hostnet.state import HostState
from hostnet.sysctl import Sysctl

KBR0 = GatewayBridge("kbr0", 1450, ("10.5.76.1/24", "fc00:0:0:4c::1/64"))
TUN = Link("flannel0", "tun", mtu=1472, addrgenmode="none", details=Tun())


@pytest.fixture
def kernel(host: str) -> Iterator[Kernel]:
    with Kernel(host, mark=OVERLAY) as opened:
        yield opened


def ip(netns: str, command: str) -> str:
    return subprocess.run(
        ["ip", "-n", netns, *command.split()], capture_output=True, text=True, check=True
    ).stdout


def test_the_pods_bridge_is_made_before_its_ports_and_its_sysctls(
    kernel: Kernel, host: str
) -> None:
    wanted = HostState(
        [
            KBR0,
            Link("kbr0-obr0", "veth", mtu=1450, master="kbr0", details=Veth("obr0-kbr0")),
            Link("obr0-kbr0", "veth", mtu=1450, details=Veth("kbr0-obr0")),
            Sysctl("net/ipv4/conf/kbr0/send_redirects", "0"),
        ]
    )
    lines = plan_full(wanted, kernel).lines()
    assert lines[0] == (
        "ip link add kbr0 mtu 1450 up type bridge && ip addr replace 10.5.76.1/24 dev kbr0 "
        "&& ip addr replace fc00:0:0:4c::1/64 dev kbr0"
    )
    assert reconcile(wanted, kernel).failures == []
    assert plan_full(wanted, kernel).lines() == []
    link = ip(host, "-d link show kbr0")
    assert "mtu 1450" in link
    assert "alias flatmesh-pod bridge" in link
    assert "0a:58:0a:05:4c:01" in link
    assert "master kbr0" in ip(host, "link show kbr0-obr0")


def test_what_is_wrong_with_the_pods_bridge_is_put_right(kernel: Kernel, host: str) -> None:
    wanted = HostState([KBR0])
    reconcile(wanted, kernel)
    for sabotage in (
        "link set kbr0 down",
        "link set kbr0 mtu 1300",
        "addr del 10.5.76.1/24 dev kbr0",
    ):
        ip(host, sabotage)
        assert plan_full(wanted, kernel).lines(), sabotage
        assert reconcile(wanted, kernel).failures == []
        assert plan_full(wanted, kernel).lines() == [], sabotage


def test_the_pods_bridge_and_its_addresses_stay_when_nobody_wants_them(
    kernel: Kernel, host: str
) -> None:
    reconcile(HostState([KBR0]), kernel)
    assert reconcile(HostState(), kernel).changes == 0
    assert "10.5.76.1/24" in ip(host, "addr show kbr0")


def test_a_device_of_another_kind_is_not_made_the_pods_bridge(kernel: Kernel, host: str) -> None:
    ip(host, "link add kbr0 type veth peer name kbr0-peer")
    (failure,) = reconcile(HostState([KBR0]), kernel).failures
    assert "device kbr0 exists and is no bridge: rename or remove it" in str(failure)
    assert "veth" in ip(host, "-d link show kbr0")


@pytest.mark.parametrize("multi_queue", [True, False])
def test_a_tun_device_is_made_and_outlives_us(kernel: Kernel, host: str, multi_queue: bool) -> None:
    link = Link("flannel0", "tun", mtu=1472, addrgenmode="none", details=Tun(multi_queue))
    wanted = HostState(
        [link, Address("flannel0", "10.5.76.0/32"), Route("10.5.0.0/16", "flannel0", scope=253)]
    )
    queues = " multi_queue vnet_hdr" if multi_queue else ""
    assert plan_full(wanted, kernel).lines()[0] == (f"ip tuntap add dev flannel0 mode tun{queues}")
    assert reconcile(wanted, kernel).failures == []
    assert plan_full(wanted, kernel).lines() == []
    assert "mtu 1472" in ip(host, "link show flannel0")
    os.close(run_in(host, lambda: attach("flannel0", single=not multi_queue)))
    assert plan_full(wanted, kernel).lines() == []
    assert reconcile(HostState(), kernel).lines() == ["ip link del flannel0"]
    assert find_link(kernel.socket, "flannel0") is None


def test_a_tun_device_with_other_queues_is_made_anew(kernel: Kernel) -> None:
    single = Link("flannel0", "tun", mtu=1472, details=Tun(multi_queue=False))
    assert reconcile(HostState([single]), kernel).ok
    outcome = reconcile(HostState([TUN]), kernel)
    assert outcome.lines()[:2] == [
        "ip link del flannel0",
        "ip tuntap add dev flannel0 mode tun multi_queue vnet_hdr",
    ]
    assert outcome.failures == []
    assert plan_full(HostState([TUN]), kernel).lines() == []


@pytest.mark.parametrize("queues", ["", " multi_queue"])
def test_a_tun_device_that_another_program_made_is_left_to_it(
    kernel: Kernel, host: str, queues: str
) -> None:
    ip(host, f"tuntap add dev flannel0 mode tun{queues}")
    before = ip(host, "-d link show flannel0")
    (failure,) = reconcile(HostState([TUN]), kernel).failures
    assert "device flannel0 exists, is of type tun and not ours" in str(failure)
    assert ip(host, "-d link show flannel0") == before


def test_checksum_offload_is_turned_off_and_seen(kernel: Kernel, host: str) -> None:
    pair = [
        Link("veth-a", "veth", details=Veth("veth-b")),
        Link("veth-b", "veth", details=Veth("veth-a")),
    ]
    wanted = HostState([*pair, TxChecksum("veth-a", on=False)])
    assert "ethtool -K veth-a tx off" in plan_full(wanted, kernel).lines()
    assert reconcile(wanted, kernel).failures == []
    assert plan_full(wanted, kernel).lines() == []
    assert reconcile(HostState(), kernel).ok
    ip(host, "link add veth-a type veth peer name veth-b")
    outcome = reconcile(wanted, kernel)
    assert outcome.lines()[-1] == "ethtool -K veth-a tx off"
    assert outcome.failures == []


def test_offload_of_a_device_that_is_not_there_is_a_failure(kernel: Kernel) -> None:
    (failure,) = reconcile(HostState([TxChecksum("veth-a", on=False)]), kernel).failures
    assert str(failure) == "ethtool -K veth-a tx off: No such device"
