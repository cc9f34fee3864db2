# SPDX-License-Identifier: Apache-2.0
"""Hosts as network namespaces on one underlay.

    fm-LAB-net    the underlay: bridge `br0`, 192.168.64.1/24 and fd00:1::1/64; etcd is here
    fm-LAB-h1     host 1: eth0 192.168.64.11/24, fd00:1::11/64, default route to the underlay
    fm-LAB-h1-p1  pod 1 of host 1: made empty, attached by the CNI plugin

Everything stays inside these namespaces, so any number of labs run side by side with the
same addresses, and the machine's own network is never touched.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from base.errors import FlatmeshError
from lab.processes import NETNS_DIR

PREFIX = "fm"
NAME = re.compile(r"(?=.{1,20}$)[a-z0-9]+(-(?!(?:net|h[0-9]+)(?:-|$))[a-z0-9]+)*")
"""No part after the first is `net` or `h1`: namespaces of `a-h1` would look like those of `a`."""
NETNS_NAME = re.compile(rf"{PREFIX}-(?P<lab>.+?)-(?P<part>net|h[0-9]+(?:-.+)?)")
"""A namespace of a lab, and what it is there."""
UNDERLAY_IPV4 = "192.168.64"
UNDERLAY_IPV6 = "fd00:1:"
FIRST_HOST = 10  # host N is .10+N, so that .1 and friends stay free


class LabError(FlatmeshError):
    """Something the lab can't do; the message is one line that tells what to do."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a lab's namespaces. Raises LabError for a name that no lab can have."""

    lab: str

    def __post_init__(self) -> None:
        """Refuse names whose namespaces can't be told from another lab's."""
        if not NAME.fullmatch(self.lab):
            raise LabError(
                f"lab name {self.lab!r}: use 1 to 20 lower-case letters and digits, with single "
                "'-' between them; no part but the first may be net, or h and a number"
            )

    @property
    def underlay(self) -> str:
        """The namespace of the network between the hosts."""
        return f"{PREFIX}-{self.lab}-net"

    def host(self, number: int) -> str:
        """The namespace of a host, counted from 1."""
        return f"{PREFIX}-{self.lab}-h{number}"

    def pod(self, host: int, pod: str) -> str:
        """The namespace of a pod."""
        return f"{PREFIX}-{self.lab}-h{host}-{pod}"

    def present(self) -> list[str]:
        """All namespaces of this lab that exist, pods first, the underlay last."""
        found = [p.name for p in NETNS_DIR.glob(f"{PREFIX}-{self.lab}-*")]
        names = [name for name in found if lab_of(name) == self.lab]
        return sorted(names, key=lambda n: (n == self.underlay, -n.count("-"), n))


def lab_of(netns: str) -> str | None:
    """Which lab a namespace belongs to; None: it is no lab's."""
    match = NETNS_NAME.fullmatch(netns)
    return match["lab"] if match else None


def host_ipv4(number: int) -> str:
    """The underlay address of a host."""
    return f"{UNDERLAY_IPV4}.{FIRST_HOST + number}"


def host_ipv6(number: int) -> str:
    """The underlay IPv6 address of a host; the digits read like the IPv4 ones."""
    return f"{UNDERLAY_IPV6}:{FIRST_HOST + number}"


def ip(*arguments: str, batch: str | None = None) -> str:
    """Call the `ip` command. Raises LabError with what it says."""
    done = subprocess.run(
        ["ip", *arguments], input=batch, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def make_underlay(names: Names, mtu: int, *, ipv4: bool = True, ipv6: bool = True) -> None:
    """Make the underlay's namespace with its bridge and addresses."""
    ip("netns", "add", names.underlay)
    lines = ["link set lo up", f"link add br0 mtu {mtu} type bridge", "link set br0 up"]
    lines += [f"addr add {UNDERLAY_IPV4}.1/24 dev br0"] * ipv4
    lines += [f"addr add {UNDERLAY_IPV6}:1/64 dev br0 nodad"] * ipv6
    ip("-n", names.underlay, "-batch", "-", batch="\n".join(lines) + "\n")


def make_host(names: Names, number: int, mtu: int, *, ipv4: bool = True, ipv6: bool = True) -> None:
    """Make a host's namespace and connect it to the underlay by a veth pair."""
    host = names.host(number)
    ip("netns", "add", host)
    port = f"h{number}"
    ip(
        *f"link add eth0 netns {host} mtu {mtu} type veth".split(),
        *f"peer name {port} netns {names.underlay} mtu {mtu}".split(),
    )
    ip("-n", names.underlay, "link", "set", port, "master", "br0", "up")
    lines = ["link set lo up", "link set eth0 up"]
    if ipv4:
        lines += [
            f"addr add {host_ipv4(number)}/24 dev eth0",
            f"route add default via {UNDERLAY_IPV4}.1",
        ]
    if ipv6:
        lines += [
            f"addr add {host_ipv6(number)}/64 dev eth0 nodad",
            f"route add default via {UNDERLAY_IPV6}:1",
        ]
    ip("-n", host, "-batch", "-", batch="\n".join(lines) + "\n")


def make_pod(names: Names, host: int, pod: str) -> Path:
    """Make an empty pod namespace; returns its path as a runtime would pass it."""
    netns = names.pod(host, pod)
    ip("netns", "add", netns)
    ip("-n", netns, "link", "set", "lo", "up")
    return NETNS_DIR / netns


def remove(netns: str) -> None:
    """Remove a namespace by name; one that is gone is no error."""
    with contextlib.suppress(LabError):
        ip("netns", "del", netns)
    path = NETNS_DIR / netns
    if path.exists():
        raise LabError(f"namespace {netns} can't be removed: is {path} in use as a mount?")
