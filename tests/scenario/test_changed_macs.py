# SPDX-License-Identifier: Apache-2.0
"""An address comes back with another MAC: no peer and no neighbour loses it, on any backend.

Whoever has learned an address believes here for ten minutes that it is right. So a neighbour that
is not told goes on sending to the old MAC for longer than any test.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from ipam.subnet_env import SubnetEnv
from lab import hosts, processes
from lab.cluster import Lab
from lab.runtime import PodInterface
from ovs_mesh.tables.neighbour import ROUTER_IPV4
from tests.scenario.ovs_lab import backend, flows_of

On = Callable[..., str]
Eventually = Callable[..., None]

MACS = ("0a:00:00:00:00:01", "0a:00:00:00:00:02")
REMEMBER = (
    "for f in /proc/sys/net/ipv[46]/neigh/*/base_reachable_time_ms; do echo 600000 > $f; done"
)
KERNEL = {
    "vxlan": "dev flannel.1",
    "host-gw": "via 192.168.64.",
    "wireguard": "dev flannel-wg",
    "udp": "dev flannel0",
}
"""Backends, and what the route to a peer's pod says."""


def test_on_backends_of_the_kernel(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, ipv6=True)
    peer = lab.pods[1].addresses[0]
    for kind, way in KERNEL.items():
        config: dict[str, Any] = {"Network": lab.spec.network, "Backend": {"Type": kind}}
        dual_stack = kind != "udp"
        if dual_stack:
            config |= {"EnableIPv6": True, "IPv6Network": lab.spec.ipv6_network}
        lab.configure(config)
        eventually(
            lambda w=way: w in on(lab.names.host(1), f"ip route get {peer}", check=False),
            f"{kind} is in force",
            timeout=60,
        )
        changes_mac(lab, kind, on, eventually, ipv6=dual_stack)
        changes_nic(lab, kind, on, eventually, ipv6=dual_stack)


@pytest.mark.parametrize("attach", ["kbr0", "obr0"])
def test_through_the_ovs_mesh(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually, attach: str
) -> None:
    config = backend("vxlan", "static", PodAttach=attach)
    lab = make_lab(hosts=2, pods_per_host=1, ipv6=True, backend=config)
    changes_mac(lab, f"static, {attach}", on, eventually, ipv6=True)
    changes_nic(lab, f"static, {attach}", on, eventually, ipv6=True)
    lab.configure({**lab.spec.cluster_config(), "Backend": {**config, "Mesh": "flow"}})
    eventually(
        lambda: any(ROUTER_IPV4 in flow for flow in flows_of(lab, 1)), "obr0 routes", timeout=60
    )
    changes_mac(lab, f"flow, {attach}", on, eventually, ipv6=True)
    changes_nic(lab, f"flow, {attach}", on, eventually, ipv6=True)


def changes_mac(lab: Lab, what: str, on: On, eventually: Eventually, *, ipv6: bool) -> None:
    """A pod goes, and another comes with its address and another MAC."""
    neighbour, peer = lab.pods
    for address in peer.addresses if ipv6 else peer.addresses[:1]:
        eventually(
            lambda a=address: reaches(on, neighbour.netns, a), f"{what} carries packets", timeout=60
        )
    observers = [neighbour.netns, peer.netns, lab.names.host(1), lab.names.host(2)]
    for netns in observers:
        subprocess.run([*processes.enter(netns), "sh", "-c", REMEMBER], check=True)
    addresses = free_addresses(lab, ipv6=ipv6)
    for number, mac in enumerate(MACS):
        through_mesh = number == 1 and what == "static, kbr0"
        if through_mesh:  # until then its announcement would be one of a stranger
            eventually(
                lambda: not any(MACS[0] in flow for flow in flows_of(lab, 1)),
                "the switch forgets the pod",
                timeout=60,
            )
        path = hosts.make_pod(lab.names, 1, "changed")
        args = f"IP={','.join(addresses)};MAC={mac}"
        interface = PodInterface(f"{lab.spec.name}-{number}", str(path), args=args)
        result: dict[str, Any] = lab.runtime(1).add(lab.conflist, interface)
        for address in addresses if through_mesh else ():
            eventually(
                lambda a=address: MACS[1] in on(lab.names.host(2), f"ip neigh show {a} dev kbr0"),
                f"the peer's host is told of {address}",
                timeout=60,
            )
        for address in addresses:
            for netns in observers:
                eventually(
                    lambda n=netns, a=address: reaches(on, n, a),
                    f"{what}: {netns} reaches {address} with MAC {mac}",
                    timeout=60,
                )
        lab.runtime(1).delete(lab.conflist, interface, result)
        hosts.remove(path.name)


def changes_nic(lab: Lab, what: str, on: On, eventually: Eventually, *, ipv6: bool) -> None:
    """Host 1's NIC gets another MAC: while its daemon runs, and while it does not.

    The peer's pod sends all the time: Open vSwitch's userspace datapath forgets the old MAC of a
    neighbour only when no packet of the flows from before has come for ten seconds.
    """
    here, peer = lab.pods
    host = lab.names.host(1)
    for stopped in (False, True):
        if stopped:
            lab.stop_daemon(1)
        mac = f"06:{':'.join(f'{byte:02x}' for byte in secrets.token_bytes(5))}"
        on(host, f"ip link set eth0 address {mac}")
        if stopped:
            lab.start_daemon(1)
            lab.wait_ready(1)
        for address in here.addresses if ipv6 else here.addresses[:1]:
            eventually(
                lambda a=address: reaches(on, peer.netns, a),
                f"{what}: {address} is reached on a host with NIC {mac}, daemon stopped {stopped}",
                timeout=60,
            )


def reaches(on: On, netns: str, address: str) -> bool:
    return " 0% packet loss" in on(netns, f"ping -c 1 -W 2 {address}", check=False)


def free_addresses(lab: Lab, *, ipv6: bool) -> list[str]:
    """An address of host 1's subnet of each family, far behind those that its pods have."""
    env = SubnetEnv.read(lab.host_dir(1) / "run/subnet.env")
    assert env.subnet is not None
    found = [str(env.subnet.network.network_address + 100)]
    if ipv6:
        assert env.ipv6_subnet is not None
        found.append(str(ip_network(env.ipv6_subnet.network).network_address + 100))
    return found
