# SPDX-License-Identifier: Apache-2.0
"""A host's VTEPs and their peers, and what `ip` and a fresh daemon see of them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from hostnet.apply import plan_full
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState, merge
from hostnet.sysctl import Sysctl

VTEP = Link(
    "flannel.1",
    "vxlan",
    mtu=1450,
    mac="c6:d2:32:6f:8f:44",
    addrgenmode="none",
    details=Vxlan(1, 8472, "192.168.64.2", "eth0"),
)
VTEP6 = Link(
    "flannel-v6.1",
    "vxlan",
    mtu=1430,
    mac="c6:d2:32:6f:8f:46",
    addrgenmode="none",
    details=Vxlan(1, 8472, "fd00:1::2", "eth0"),
)
BASE = HostState(
    links=frozenset([VTEP, VTEP6]),
    addresses=frozenset(
        [Address("flannel.1", "10.5.76.0/32"), Address("flannel-v6.1", "fc00:0:0:4c::/128")]
    ),
    sysctls=frozenset([Sysctl("net/ipv4/ip_forward", "1")]),
)


def peer(number: int) -> HostState:
    high, low = divmod(number, 256)
    subnet, mac = f"10.{64 + high}.{low}.0", f"c6:d2:33:00:{high:02x}:{low:02x}"
    subnet6, mac6 = f"fc00:0:1:{number + 1:x}::", f"c6:d2:33:06:{high:02x}:{low:02x}"
    return HostState(
        routes=frozenset(
            [
                Route(f"{subnet}/24", "flannel.1", subnet, onlink=True),
                Route(f"{subnet6}/64", "flannel-v6.1", subnet6, onlink=True),
            ]
        ),
        neighbours=frozenset(
            [Neighbour("flannel.1", subnet, mac), Neighbour("flannel-v6.1", subnet6, mac6)]
        ),
        fdb=frozenset(
            [
                FdbEntry("flannel.1", mac, f"192.168.{65 + high}.{low}"),
                FdbEntry("flannel-v6.1", mac6, f"fd00:2::{number + 1:x}"),
            ]
        ),
    )


RIGHT = "id 1 dev eth0 local 192.168.64.2 dstport 8472 nolearning"
WANTED = merge([BASE, *(peer(n) for n in range(4))])


def ip(netns: str, command: str) -> str:
    words = command.split()
    tool = words.pop(0) if words[0] in ("bridge", "nft") else "ip"
    argv = ["ip", "netns", "exec", netns, tool, *words] if tool == "nft" else None
    done = subprocess.run(
        argv or [tool, "-n", netns, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def ip_json(netns: str, command: str) -> list[dict[str, Any]]:
    tool, *words = command.split()
    done = subprocess.run(
        [tool, "-n", netns, "-j", "-d", *words], capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return found


def settled(kernel: Kernel, desired: HostState = WANTED) -> None:
    """Assert that nothing is left to change, also for a daemon that has just started."""
    assert plan_full(desired, kernel).lines() == []
    with Kernel(kernel.netns_fd, nexthop_objects=kernel.nexthop_objects) as fresh:
        assert plan_full(desired, fresh).lines() == []
