# SPDX-License-Identifier: Apache-2.0
"""Hosts that reconcile as the daemon does, with the wireguard backend only.

A `Mesh` is an underlay, hosts on it and a pod on each, as namespaces. `mesh.reconcile()` gives
every host all leases, as etcd would.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any, Self

import pytest

from flannel.wireguard.backend import WireguardBackend
from flannel.wireguard.data_plane import WireguardDataPlane
from hostnet.apply import reconcile
from hostnet.kernel import Kernel
from hostnet.netns import run_in
from hostnet.state import HostState, merge
from hostnet.sysctl import Sysctl
from hostnet.underlay import Underlay
from hostnet.wireguard.state import WireguardDevice
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig, parse_config
from lab import hosts, processes
from lab.matrix import MatrixEndpoint, PairResult, measure
from lab.removal import remove_namespaces
from lab.time_factor import scaled

MakeMesh = Callable[..., "Mesh"]
FORWARD = frozenset(
    [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv6/conf/all/forwarding", "1")]
)


@dataclass
class Host:
    number: int
    netns: str
    pod: str
    config: NetworkConfig
    directory: Path
    in_kernel: bool = False
    backend: WireguardBackend = field(init=False)
    plane: WireguardDataPlane = field(init=False)
    own: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.start()
        self.own = Lease(self.subnet, self.ipv6_subnet, LeaseAttributes())

    def start(self) -> None:
        """Start as a new daemon, with nothing but the directories."""
        backend = self.run(
            lambda: WireguardBackend.from_config(
                self.config, self.directory / "var", self.directory / "run"
            )
        )
        self.backend = replace(backend, in_kernel=self.in_kernel)
        plane = self.backend.data_plane()
        assert isinstance(plane, WireguardDataPlane)
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
    def underlay(self) -> Underlay:
        ipv4, ipv6 = hosts.host_ipv4(self.number), hosts.host_ipv6(self.number)
        return Underlay(
            "eth0",
            1500,
            IPv4Address(ipv4),
            IPv6Address(ipv6),
            (ip_interface(f"{ipv4}/24"), ip_interface(f"{ipv6}/64")),
        )

    def publish(self) -> Lease:
        attributes = self.run(lambda: self.backend.attributes(self.underlay, self.own.attributes))
        self.own = replace(self.own, attributes=attributes)
        return self.own

    def reconcile(self, leases: list[Lease]) -> list[str]:
        """Reconcile as the daemon does with these leases; returns the data plane's changes."""
        peers = [lease for lease in leases if lease.key != self.own.key]

        def work() -> list[str]:
            parts = [self.backend.peer(peer, self.own, self.underlay) for peer in peers]
            base = self.backend.base(self.own, self.underlay)
            self.plane.prepare(self.own, self.underlay)
            with Kernel() as kernel:
                outcome = reconcile(merge([base, HostState(sysctls=FORWARD), *parts]), kernel)
            changes = self.plane.reconcile(self.own, peers, self.underlay)
            assert outcome.failures == []
            return changes

        lines: list[str] = self.run(work)
        return lines

    def wg(self, command: str) -> str:
        """Call wg(8) where it finds this host's socket: in wireguard-go's mount namespace."""
        where = list(processes.enter(self.netns))
        if not self.in_kernel:
            where = ["nsenter", "--mount", "--net", "--target", str(self.pid())]
        done = subprocess.run(
            [*where, "wg", *command.split()], capture_output=True, text=True, check=True
        )
        return done.stdout

    def kill(self, name: str = "flannel-wg") -> None:
        """Kill wireguard-go with SIGKILL, as a crash would."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + scaled(20)
        while processes.running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def device(self, name: str = "flannel-wg") -> WireguardDevice:
        device: WireguardDevice = self.run(lambda: self.plane.control(name).read())
        return device

    def pid(self, name: str = "flannel-wg") -> int:
        pid = self.plane.processes[name].uapi.pid()
        assert pid is not None
        return pid

    def links(self) -> set[str]:
        text = hosts.ip("-n", self.netns, "-j", "link", "show")
        return {link["ifname"] for link in json.loads(text)}

    def endpoint(self, family: int = 4) -> MatrixEndpoint | None:
        subnet = self.subnet if family == 4 else self.ipv6_subnet
        if subnet is None:
            return None
        return MatrixEndpoint(f"pod of host {self.number}", self.pod, (str(subnet[2]),))

    @property
    def address(self) -> str:
        """The pod's IPv4 address."""
        return f"10.5.{self.number}.2"


@dataclass
class Mesh:
    names: hosts.Names
    hosts: list[Host]

    def reconcile(self) -> list[list[str]]:
        leases = [host.publish() for host in self.hosts]
        return [host.reconcile(leases) for host in self.hosts]

    def matrix(self, timeout: float = 20.0) -> list[PairResult]:
        results = []
        for family in (4, 6):
            pods = [host.endpoint(family) for host in self.hosts]
            if present := [pod for pod in pods if pod is not None]:
                results += measure(present, present, timeout)
        return results

    def assert_all_reach_all(self) -> None:
        results = self.matrix()
        assert results
        assert [result for result in results if not result.good] == []


def wire_pod(host: Host) -> None:
    """A pod at the subnet's second address, the host at its first."""
    hosts.ip(*f"link add pod0 netns {host.netns} type veth peer name eth0 netns {host.pod}".split())
    inside, outside = ["link set eth0 up"], ["link set pod0 up"]
    for subnet in (host.subnet, host.ipv6_subnet):
        if subnet is not None:
            length = subnet.prefixlen
            outside.append(f"addr add {subnet[1]}/{length} dev pod0 nodad")
            inside.append(f"addr add {subnet[2]}/{length} dev eth0 nodad")
            inside.append(f"route add default via {subnet[1]}")
    hosts.ip("-n", host.netns, "-batch", "-", batch="\n".join(outside) + "\n")
    hosts.ip("-n", host.pod, "-batch", "-", batch="\n".join(inside) + "\n")


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[MakeMesh]:
    """Make a mesh on wireguard-go: `make_mesh(3, ipv6=True, Mode="auto")`."""
    with contextlib.ExitStack() as stack:
        yield partial(build, stack, tmp_path, in_kernel=False)


@pytest.fixture(
    params=[
        "wireguard-go",
        pytest.param("kernel", marks=pytest.mark.kernel("WireGuard")),
    ]
)
def make_any_mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeMesh]:
    """The same, once on wireguard-go and once on the kernel's WireGuard."""
    with contextlib.ExitStack() as stack:
        yield partial(build, stack, tmp_path, in_kernel=request.param == "kernel")


def build(
    stack: contextlib.ExitStack,
    directory: Path,
    count: int = 2,
    *,
    in_kernel: bool,
    ipv4: bool = True,
    ipv6: bool = False,
    **keys: Any,
) -> Mesh:
    document: dict[str, Any] = {"Backend": {"Type": "wireguard", **keys}}
    document |= {"Network": "10.5.0.0/16"} if ipv4 else {"EnableIPv4": False}
    document |= {"EnableIPv6": True, "IPv6Network": "fd05::/48"} if ipv6 else {}
    config = parse_config(json.dumps(document))
    names = hosts.Names(f"w{secrets.token_hex(4)}")
    stack.callback(remove_namespaces, names, grace=1.0)
    hosts.make_underlay(names, 1500)
    made = []
    for number in range(1, count + 1):
        hosts.make_host(names, number, 1500)
        pod = hosts.make_pod(names, number, "p1").name
        own = directory / f"{names.lab}-h{number}"
        made.append(Host(number, names.host(number), pod, config, own, in_kernel))
        wire_pod(made[-1])
    return Mesh(names, made)


@dataclass
class Stream:
    """Numbered datagrams from one pod to another, at a constant rate."""

    sender: Host
    receiver: Host
    pace: float = 0.04
    """Seconds between two."""
    sent: int = 0
    arrived: set[int] = field(default_factory=set)

    def __enter__(self) -> Self:
        def listener() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.bind(("", 9))
            opened.settimeout(0.1)
            return opened

        self._into = run_in(self.receiver.pod, listener)
        self._out = run_in(
            self.sender.pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        self._stop, self._finished = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=t) for t in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._finished.set()
        for thread in self._threads:
            thread.join()
        self._into.close()
        self._out.close()

    def go_on(self, datagrams: int = 10) -> None:
        """Wait until so many more are sent."""
        target = self.sent + datagrams
        while self.sent < target and self._threads[0].is_alive():
            time.sleep(self.pace)

    def finish(self, timeout: float = 20.0) -> set[int]:
        """Stop sending, wait for datagrams under way; returns how many were lost."""
        self._finished.set()
        self._threads[0].join()
        deadline = time.monotonic() + scaled(timeout)
        while self.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.lost

    def _send(self) -> None:
        while not (self._stop.is_set() or self._finished.is_set()):
            self._out.sendto(str(self.sent).encode(), (self.receiver.address, 9))
            self.sent += 1
            self._finished.wait(self.pace)

    def _receive(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self.arrived.add(int(self._into.recv(64)))

    @property
    def lost(self) -> set[int]:
        return set(range(self.sent)) - self.arrived


@pytest.fixture
def stream() -> type[Stream]:
    return Stream


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    """Two hosts that reach each other."""
    return started(make_mesh())


@pytest.fixture
def any_mesh(make_any_mesh: MakeMesh) -> Mesh:
    """The same, once on wireguard-go and once on the kernel's WireGuard."""
    return started(make_any_mesh())


def started(mesh: Mesh) -> Mesh:
    mesh.reconcile()
    mesh.assert_all_reach_all()
    return mesh


@pytest.fixture
def eventually() -> Callable[..., None]:
    def wait(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
        deadline = time.monotonic() + scaled(timeout)
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def on() -> Callable[..., str]:
    """Run a command in a namespace: `on(netns, "ip route")`."""

    def run(netns: str, command: str) -> str:
        return subprocess.run(
            [*processes.enter(netns), *command.split()], capture_output=True, text=True, check=True
        ).stdout

    return run
