# SPDX-License-Identifier: Apache-2.0
"""The baseline: Open vSwitch as an operator sets it up by hand, after the classic recipe.

Each host's NIC and address are moved into `br-phy`; `br0` has one tunnel port and switches as it
learns (the NORMAL action); a Linux bridge with the pods is joined to `br0` by a veth pair.

Source of the recipe: Open vSwitch, Documentation/howto/userspace-tunneling.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.traffic import TrafficPath, in_netns
from bench.wait import wait_for_ping
from lab import hosts, processes
from lab.hosts import Names, ip
from lab.ovs_server import OvsServer
from lab.removal import remove_namespaces
from ovs_mesh.config import IANA_PORT, OVERHEAD

HAND_MADE = "hand-made OVS"
UNDERLAY_MTU = 1500  # bytes


def make_host(names: Names, number: int, tunnel: str, server: OvsServer) -> None:
    """One host of the recipe with one pod, 10.9.NUMBER.2."""
    hosts.make_host(names, number, UNDERLAY_MTU, ipv6=False)
    hosts.make_pod(names, number, "p1")
    host, pod, other = names.host(number), names.pod(number, "p1"), 3 - number
    mtu = UNDERLAY_MTU - OVERHEAD[tunnel]
    lines = [
        f"link add kbr0 mtu {mtu} type bridge",
        f"link add kbr0-br0 mtu {mtu} type veth peer name br0-kbr0 mtu {mtu}",
        f"link add pod1 mtu {mtu} type veth peer name eth0 netns {pod} mtu {mtu}",
        "link set kbr0-br0 master kbr0 up",
        "link set br0-kbr0 up",
        "link set pod1 master kbr0 up",
        "link set kbr0 up",
        f"addr add 10.9.{number}.1/24 dev kbr0",
    ]
    ip("-n", host, "-batch", "-", batch="\n".join(lines) + "\n")
    mac = json.loads(ip("-n", host, "-json", "link", "show", "eth0"))[0]["address"]
    server.start()
    userspace = ("datapath_type=netdev", "fail_mode=standalone")
    port = [f"options:dst_port={IANA_PORT[tunnel]}"] if IANA_PORT[tunnel] else []
    server.vsctl(
        *("add-br", "br-phy", "--", "set", "bridge", "br-phy", *userspace),
        *(f"other_config:hwaddr={mac}", "--", "add-port", "br-phy", "eth0"),
        *("--", "add-br", "br0", "--", "set", "bridge", "br0", *userspace),
        *("--", "add-port", "br0", "br0-kbr0"),
        *("--", "add-port", "br0", "tun0", "--", "set", "interface", "tun0", f"type={tunnel}"),
        *(f"options:remote_ip={hosts.host_ipv4(other)}", "options:key=1", *port),
    )
    lines = [
        "addr flush dev eth0",
        "link set br-phy up",
        "link set br0 up",
        f"addr add {hosts.host_ipv4(number)}/24 dev br-phy",
        f"route add 10.9.{other}.0/24 dev kbr0",
    ]
    ip("-n", host, "-batch", "-", batch="\n".join(lines) + "\n")
    lines = [
        "link set eth0 up",
        f"addr add 10.9.{number}.2/24 dev eth0",
        f"route add default via 10.9.{number}.1",
    ]
    ip("-n", pod, "-batch", "-", batch="\n".join(lines) + "\n")
    for command in (
        ("ethtool", "-K", "kbr0-br0", "tx", "off"),  # the switch takes packets as they are
        ("sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"),
        ("sysctl", "-q", "net.ipv4.conf.kbr0.send_redirects=0"),
    ):
        argv = [*processes.enter(host), *command]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def hand_made(tunnel: str, directory: Path, name: str = "benchovshand") -> Iterator[TrafficPath]:
    """Two hosts of the recipe; from the pod of one to the pod of the other."""
    names = Names(name)
    try:
        remove_namespaces(names)
        hosts.make_underlay(names, UNDERLAY_MTU, ipv6=False)
        for number in (1, 2):
            server = OvsServer(directory / f"hand-{tunnel}{number}", names.host(number))
            make_host(names, number, tunnel, server)
        sender, receiver = (in_netns(names.pod(number, "p1")) for number in (1, 2))
        path = TrafficPath(HAND_MADE, sender, receiver, "10.9.2.2")
        wait_for_ping(sender, path.address, f"the {HAND_MADE} {tunnel} tunnel")
        yield path
    finally:
        remove_namespaces(names)
