# SPDX-License-Identifier: Apache-2.0
"""A container on each host of a lab, and who reaches whom by name and by address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from lab.docker.host import DockerOfHost
from lab.docker.image import IMAGE

NETWORK = "flat"
OFFSET = 200
"""Of the containers' addresses in their host's subnet: names are written before they start."""
RTT = re.compile(r"time=([\d.]+) ms")
ROUNDS = 5
"""Pings until a pair counts as cut off: the first may wait for a neighbour."""


@dataclass(frozen=True, slots=True)
class LabContainer:
    """One container of the lab."""

    docker: DockerOfHost
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class ContainerPair:
    """How one container reaches another."""

    sender: str
    receiver: str
    address: str
    by_name: float | None
    """Milliseconds; None: not at all."""
    by_address: float | None

    @property
    def good(self) -> bool:
        """Whether it reaches it both ways of saying it."""
        return self.by_name is not None and self.by_address is not None


def planned(hosts: Sequence[tuple[DockerOfHost, str]]) -> list[LabContainer]:
    """A container for each host, `h1-c1`, at an address of the host's subnet. Pure."""
    return [
        LabContainer(docker, f"h{docker.number}-c1", str(ip_network(subnet)[OFFSET]))
        for docker, subnet in hosts
    ]


def start(
    containers: Sequence[LabContainer], network: str, told: Callable[[str], None] = lambda _: None
) -> None:
    """Start dockerd on each host, the network, and the containers. Raises LabError.

    Docker's DNS knows the names of one host; those of the others are entries of /etc/hosts.
    """
    names = [f"--add-host={one.name}:{one.address}" for one in containers]
    for one in containers:
        told(f"dockerd on h{one.docker.number}, and its container {one.name}")
        docker = one.docker
        docker.start()
        docker.load()
        driver = "--driver", "flatmesh", "--ipam-driver", "flatmesh", "--subnet", network
        docker("network", "create", *driver, NETWORK)
        docker(
            *("run", "--detach", "--name", one.name, "--hostname", one.name),
            *("--network", NETWORK, "--ip", one.address, "--restart", "unless-stopped"),
            *("--stop-timeout", "1", *names),
            *(IMAGE, "sleep", "1000000"),
        )


def measure(containers: Sequence[LabContainer]) -> Iterator[ContainerPair]:
    """Ping from each to each other."""
    for sender in containers:
        for receiver in containers:
            if receiver is not sender:
                yield ContainerPair(
                    sender.name,
                    receiver.name,
                    receiver.address,
                    _ping(sender, receiver.name),
                    _ping(sender, receiver.address),
                )


def _ping(sender: LabContainer, target: str) -> float | None:
    for _ in range(ROUNDS):
        argv = "exec", sender.name, "ping", "-c", "1", "-W", "1", target
        found = RTT.search(sender.docker(*argv, check=False))
        if found is not None:
            return float(found[1])
    return None
