# SPDX-License-Identifier: Apache-2.0
"""The baselines: what an operator makes with `ip` and `wg` so that pods of two hosts talk.

Two hosts as namespaces. On each a bridge with one pod, 10.9.NUMBER.2, and one way to the other's:

    route        plain route by the other host's underlay address     beside host-gw
    vxlan        one VXLAN device, its neighbour and FDB entry        beside vxlan
    wireguard    a key pair each; the kernel's or wireguard-go        beside wireguard

MTUs are those of the backends. Nothing filters or counts; no daemon runs.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from bench.traffic import MeasureError, TrafficPath, in_netns
from bench.wait import wait_for_ping, wait_until
from hostnet.device_probe import missing_kind
from lab import hosts, processes
from lab.hosts import Names, ip
from lab.removal import remove_namespaces

UNDERLAY_MTU = 1500  # bytes
VXLAN_OVERHEAD = 50  # bytes
WIREGUARD_OVERHEAD = 80  # bytes
VXLAN_PORT = 8472  # as flannel's
WIREGUARD_PORT = 51820


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to connect two hosts."""

    mtu: int
    """Bytes; of pods and bridge."""
    connect: Callable[[Names, Path], None]
    """Called once both hosts have a pod; the directory is for files."""


def batch(netns: str, *lines: str) -> None:
    """Run lines of `ip` in a namespace. Raises LabError."""
    ip("-n", netns, "-batch", "-", batch="\n".join(lines) + "\n")


def attach_pod(names: Names, number: int, gateway: IPv4Interface, mtu: int) -> str:
    """Make the bridge of a host and one pod on it, `gateway` + 1; returns the pod's address."""
    hosts.make_pod(names, number, "p1")
    host, pod = names.host(number), names.pod(number, "p1")
    address = IPv4Interface((gateway.ip + 1, gateway.network.prefixlen))
    batch(
        host,
        f"link add kbr0 mtu {mtu} type bridge",
        f"link add pod1 mtu {mtu} type veth peer name eth0 netns {pod} mtu {mtu}",
        "link set pod1 master kbr0 up",
        "link set kbr0 up",
        f"addr add {gateway} dev kbr0",
    )
    batch(
        pod,
        "link set eth0 up",
        f"addr add {address} dev eth0",
        f"route add default via {gateway.ip}",
    )
    run(host, "sysctl", "-q", "net.ipv4.ip_forward=1")
    return str(address.ip)


def run(netns: str, *command: str, text: str | None = None) -> str:
    """Run a program in a namespace; returns its output. Raises MeasureError."""
    argv = [*processes.enter(netns), *command]
    done = subprocess.run(argv, input=text, capture_output=True, check=False, text=True)
    if done.returncode:
        raise MeasureError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _route(names: Names, _: Path) -> None:
    for number, other in ((1, 2), (2, 1)):
        line = f"route add 10.9.{other}.0/24 via {hosts.host_ipv4(other)}"
        batch(names.host(number), line)


def _vxlan(names: Names, _: Path) -> None:
    for number, other in ((1, 2), (2, 1)):
        mac, base = f"02:00:00:00:09:{other:02x}", f"10.9.{other}.0"
        batch(
            names.host(number),
            f"link add vx1 address 02:00:00:00:09:{number:02x} mtu {UNDERLAY_MTU - VXLAN_OVERHEAD}"
            f" type vxlan id 1 dstport {VXLAN_PORT} local {hosts.host_ipv4(number)} nolearning",
            "link set vx1 up",
            f"addr add 10.9.{number}.0/32 dev vx1",
            f"neigh add {base} lladdr {mac} dev vx1 nud permanent",
            f"route add {base}/24 via {base} dev vx1 onlink",
        )
        to = hosts.host_ipv4(other)
        run(names.host(number), "bridge", "fdb", "add", mac, "dev", "vx1", "dst", to)


def _wireguard(names: Names, directory: Path) -> None:
    in_kernel = missing_kind("wireguard") is None
    # wireguard-go puts its sockets into one directory of the machine: no name may be used twice
    mark = secrets.token_hex(3)
    keys = {number: run(names.host(number), "wg", "genkey") for number in (1, 2)}
    public = {
        number: run(names.host(number), "wg", "pubkey", text=key).strip()
        for number, key in keys.items()
    }
    for number, other in ((1, 2), (2, 1)):
        host, device = names.host(number), f"bwg{mark}{number}"
        if in_kernel:
            ip("-n", host, "link", "add", device, "type", "wireguard")
        else:
            log = directory / f"{device}.log"
            processes.spawn(["wireguard-go", "-f", device], host, log)
            wait_until(
                lambda device=device: Path(f"/var/run/wireguard/{device}.sock").exists(),  # type: ignore[misc]
                f"wireguard-go for {device}, see {log}",
            )
        run(
            host,
            *("wg", "set", device, "listen-port", str(WIREGUARD_PORT)),
            *("private-key", "/dev/stdin", "peer", public[other]),
            *("endpoint", f"{hosts.host_ipv4(other)}:{WIREGUARD_PORT}"),
            *("allowed-ips", f"10.9.{other}.0/24"),
            text=keys[number],
        )
        batch(
            host,
            f"link set {device} mtu {UNDERLAY_MTU - WIREGUARD_OVERHEAD} up",
            f"route add 10.9.{other}.0/24 dev {device}",
        )


ROUTE = Recipe(UNDERLAY_MTU, _route)
VXLAN = Recipe(UNDERLAY_MTU - VXLAN_OVERHEAD, _vxlan)
WIREGUARD = Recipe(UNDERLAY_MTU - WIREGUARD_OVERHEAD, _wireguard)


@contextlib.contextmanager
def hand_made(label: str, recipe: Recipe, name: str, directory: Path) -> Iterator[TrafficPath]:
    """Two hosts connected by a recipe; from the pod of one to the pod of the other."""
    names = Names(name)
    remove_namespaces(names)
    try:
        hosts.make_underlay(names, UNDERLAY_MTU, ipv6=False)
        addresses = {}
        for number in (1, 2):
            hosts.make_host(names, number, UNDERLAY_MTU, ipv6=False)
            gateway = IPv4Interface(f"10.9.{number}.1/24")
            addresses[number] = attach_pod(names, number, gateway, recipe.mtu)
        recipe.connect(names, directory)
        client, server = (in_netns(names.pod(number, "p1")) for number in (1, 2))
        wait_for_ping(client, addresses[2], label)
        yield TrafficPath(label, client, server, addresses[2])
    finally:
        remove_namespaces(names)
