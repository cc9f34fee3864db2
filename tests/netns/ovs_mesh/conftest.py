# SPDX-License-Identifier: Apache-2.0
"""A host with an Open vSwitch of its own, driven as the daemon drives it: no etcd, no lab."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_interface
from pathlib import Path
from typing import TypeVar

import pytest

from hostnet.apply import reconcile
from hostnet.kernel import Kernel
from hostnet.netns import run_in
from hostnet.state import merge
from hostnet.underlay import Underlay
from ipam.lease import Lease
from ipam.network import parse_config
from lab.ovs_server import OvsServer
from ovs_mesh.backend import OvsBackend
from ovs_mesh.config import OvsConfig
from ovs_mesh.data_plane import OvsDataPlane
from ovs_mesh.datapath import Datapath

T = TypeVar("T")
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"ovs","Tunnel":"vxlan","Mesh":"flow"}}'
UNDERLAY = Underlay(
    "eth0", 1500, IPv4Address("192.168.64.2"), None, (ip_interface("192.168.64.2/24"),)
)


@dataclass
class OvsHost:
    """A namespace with eth0, an Open vSwitch, and the ovs backend."""

    netns: str
    directory: Path
    server: OvsServer
    backend: OvsBackend = field(init=False)
    plane: OvsDataPlane = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start as a new daemon, with nothing but the directories."""
        config = OvsConfig.of(parse_config(CONFIG))
        run_dir = self.directory / "run"
        run_dir.mkdir(exist_ok=True)
        datapath = Datapath("netdev", "test")
        rundir = self.server.directory
        self.backend = OvsBackend(config, datapath, self.directory / "var", run_dir, rundir)
        plane = self.backend.data_plane()
        assert isinstance(plane, OvsDataPlane)
        self.plane = plane

    def run(self, work: Callable[[], T]) -> T:
        """Run it in the host's namespace."""
        return run_in(self.netns, work)

    def lease(self, number: int) -> Lease:
        underlay = Underlay("eth0", 1500, IPv4Address(f"192.168.64.{number}"))
        attributes = self.backend.attributes(underlay, None)
        return Lease(IPv4Network(f"10.5.{number}.0/24"), None, attributes)

    def reconcile(self, *peers: int) -> list[str]:
        """Reconcile kernel objects, then the data plane, as the daemon does."""
        own, leases = self.lease(2), [self.lease(number) for number in peers]

        def work() -> list[str]:
            self.plane.prepare(own, UNDERLAY)
            parts = [self.backend.peer(peer, own, UNDERLAY) for peer in leases]
            with Kernel() as kernel:
                outcome = reconcile(merge([self.backend.base(own, UNDERLAY), *parts]), kernel)
            assert outcome.failures == []
            return self.plane.reconcile(own, leases, UNDERLAY)

        return self.run(work)

    @contextlib.contextmanager
    def stopped(self, program: str) -> Iterator[None]:
        """SIGSTOP a server for the time of the context: it holds its sockets, but is silent."""
        pid = self.server.pid(program)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def ovs_host(host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsHost]:
    if shutil.which("ovs-vswitchd") is None:
        pytest.skip("Open vSwitch is not installed")
    directory = tmp_path_factory.mktemp("o")
    server = OvsServer(directory / "ovs", host)
    server.start()
    made = OvsHost(host, directory, server)
    try:
        yield made
    finally:
        made.plane.close()
        for program in ("ovs-vswitchd", "ovsdb-server"):
            server.stop(program)
