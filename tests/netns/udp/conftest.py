# SPDX-License-Identifier: Apache-2.0
"""Hosts that reconcile as the daemon does, with the udp backend only.

A `Mesh` is an underlay, hosts on it and a pod on each, as namespaces: the same as for
wireguard's tests. `mesh.reconcile()` gives every host all leases, as etcd would.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any

import pytest

from flannel.udp.backend import UdpBackend
from flannel.udp.data_plane import UdpDataPlane
from hostnet.apply import reconcile
from hostnet.kernel import Kernel
from hostnet.netns import run_in
from hostnet.state import HostState, merge
from hostnet.sysctl import Sysctl
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig, parse_config
from lab import hosts
from lab.matrix import MatrixEndpoint, measure
from lab.removal import remove_namespaces

FORWARD = frozenset(
    [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1")]
)
REACHABLE_TIMEOUT = 20.0  # seconds


@dataclass
class Host:
    number: int
    netns: str
    pod: str
    config: NetworkConfig
    directory: Path
    underlay_ipv4: bool = True
    underlay_ipv6: bool = True
    mtu: int = 1500
    backend: UdpBackend = field(init=False)
    plane: UdpDataPlane = field(init=False)
    own: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.start()
        self.own = Lease(self.subnet, self.ipv6_subnet, LeaseAttributes())

    def start(self) -> None:
        """Start as a new daemon, with nothing but the directories."""
        run_dir = self.directory / "run"
        self.backend = UdpBackend.from_config(self.config, self.directory / "var", run_dir)
        plane = self.backend.data_plane()
        assert isinstance(plane, UdpDataPlane)
        self.plane = plane

    def run(self, function: Callable[[], Any]) -> Any:
        return run_in(self.netns, function)

    @property
    def subnet(self) -> IPv4Network | None:
        return IPv4Network(f"10.5.{self.number}.0/24") if self.config.enable_ipv4 else None

    @property
    def ipv6_subnet(self) -> IPv6Network | None:
        return IPv6Network(f"fd05:0:0:{self.number}::/64") if self.config.enable_ipv6 else None

    @property
    def pod_ip(self) -> str:
        assert self.subnet is not None
        return str(self.subnet[2])

    @property
    def underlay(self) -> Underlay:
        ipv4, ipv6 = hosts.host_ipv4(self.number), hosts.host_ipv6(self.number)
        addresses = [f"{ipv4}/24"] * self.underlay_ipv4 + [f"{ipv6}/64"] * self.underlay_ipv6
        return Underlay(
            "eth0",
            self.mtu,
            IPv4Address(ipv4) if self.underlay_ipv4 else None,
            IPv6Address(ipv6) if self.underlay_ipv6 else None,
            tuple(map(ip_interface, addresses)),
        )

    def publish(self) -> Lease:
        attributes = self.backend.attributes(self.underlay, self.own.attributes)
        self.own = replace(self.own, attributes=attributes)
        return self.own

    def reconcile(self, leases: list[Lease]) -> list[str]:
        """Reconcile as the daemon does with these leases; returns the data plane's changes."""
        peers = [lease for lease in leases if lease.key != self.own.key]

        def work() -> list[str]:
            parts = [self.backend.peer(peer, self.own, self.underlay) for peer in peers]
            base = self.backend.base(self.own, self.underlay)
            with Kernel() as kernel:
                outcome = reconcile(merge([base, HostState(sysctls=FORWARD), *parts]), kernel)
            changes = self.plane.reconcile(self.own, peers, self.underlay)
            assert outcome.failures == []
            return changes

        lines: list[str] = self.run(work)
        return lines

    def pid(self) -> int:
        status = self.plane.process.status()
        assert status is not None
        return int(status["pid"])

    def counters(self) -> dict[str, int]:
        """The counters that are not zero."""
        return {name: value for name, value in self.plane.counters().items() if value}

    def links(self) -> set[str]:
        text = hosts.ip("-n", self.netns, "-j", "link", "show")
        return {link["ifname"] for link in json.loads(text)}

    def endpoints(self) -> list[MatrixEndpoint]:
        found = []
        if self.subnet:
            found.append(MatrixEndpoint(f"pod{self.number}", self.pod, (str(self.subnet[2]),)))
        if self.ipv6_subnet:
            found.append(
                MatrixEndpoint(f"pod{self.number}v6", self.pod, (str(self.ipv6_subnet[2]),))
            )
        return found


@dataclass
class Mesh:
    names: hosts.Names
    hosts: list[Host]

    def reconcile(self) -> list[list[str]]:
        leases = [host.publish() for host in self.hosts]
        return [host.reconcile(leases) for host in self.hosts]

    def assert_all_reach_all(self) -> None:
        """Every pod reaches every other one, under its own address, in both families."""
        for version in ("", "v6"):
            pods = [
                e
                for h in self.hosts
                for e in h.endpoints()
                if e.name.endswith("v6") == (version == "v6")
            ]
            results = measure(pods, pods, REACHABLE_TIMEOUT) if pods else []
            assert [result for result in results if not result.good] == []


def wire_pod(host: Host, mtu: int) -> None:
    """A pod at the subnet's second address, the host at its first."""
    hosts.ip(*f"link add pod0 netns {host.netns} type veth peer name eth0 netns {host.pod}".split())
    inside, outside = [f"link set eth0 mtu {mtu} up"], [f"link set pod0 mtu {mtu} up"]
    for subnet in (host.subnet, host.ipv6_subnet):
        if subnet is not None:
            length = subnet.prefixlen
            outside.append(f"addr add {subnet[1]}/{length} dev pod0 nodad")
            inside.append(f"addr add {subnet[2]}/{length} dev eth0 nodad")
            inside.append(f"route add default via {subnet[1]}")
    hosts.ip("-n", host.netns, "-batch", "-", batch="\n".join(outside) + "\n")
    hosts.ip("-n", host.pod, "-batch", "-", batch="\n".join(inside) + "\n")


MakeMesh = Callable[..., Mesh]


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[MakeMesh]:
    """`make_mesh(hosts=2, ipv4=True, ipv6=False, underlay_ipv4=True, underlay_ipv6=True)`."""
    with contextlib.ExitStack() as stack:

        def make(
            count: int = 2,
            *,
            ipv4: bool = True,
            ipv6: bool = False,
            underlay_ipv4: bool = True,
            underlay_ipv6: bool = True,
            pod_mtu: int = 0,
            **options: Any,
        ) -> Mesh:
            names = hosts.Names(f"u{secrets.token_hex(4)}")
            stack.callback(remove_namespaces, names)
            hosts.make_underlay(names, 1500, ipv4=underlay_ipv4, ipv6=underlay_ipv6)
            document = {
                "EnableIPv4": ipv4,
                "EnableIPv6": ipv6,
                **({"Network": "10.5.0.0/16"} if ipv4 else {}),
                **({"IPv6Network": "fd05::/48"} if ipv6 else {}),
                "Backend": {"Type": "udp", "Queues": 2, **options},
            }
            config = parse_config(json.dumps(document))
            made = []
            for number in range(1, count + 1):
                hosts.make_host(names, number, 1500, ipv4=underlay_ipv4, ipv6=underlay_ipv6)
                hosts.make_pod(names, number, "p1")
                directory = tmp_path / f"{names.lab}-h{number}"
                host = Host(
                    number,
                    names.host(number),
                    names.pod(number, "p1"),
                    config,
                    directory,
                    underlay_ipv4,
                    underlay_ipv6,
                )
                wire_pod(host, pod_mtu or host.backend.mtu(host.underlay))
                made.append(host)
            return Mesh(names, made)

        yield make


@pytest.fixture
def wait() -> Callable[[Callable[[], bool], str], None]:
    return until


def until(check: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + REACHABLE_TIMEOUT
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
