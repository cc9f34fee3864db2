# SPDX-License-Identifier: Apache-2.0
"""What keeps a link from taking routes from whoever sends to it (CVE-2020-10749, ip-sysctl.rst)."""

from __future__ import annotations

from hostnet.sysctl import Sysctl

ROUTER = (
    ("net/ipv6/conf", "accept_ra"),
    ("net/ipv6/conf", "autoconf"),
    ("net/ipv6/conf", "accept_redirects"),
    ("net/ipv6/conf", "proxy_ndp"),
    ("net/ipv4/conf", "accept_redirects"),
    ("net/ipv4/conf", "send_redirects"),
    ("net/ipv4/conf", "proxy_arp"),
)
"""All are 0 on a bridge or a gateway that pods send to."""
POD = (
    ("net/ipv6/conf", "accept_ra"),
    ("net/ipv6/conf", "accept_redirects"),
    ("net/ipv4/conf", "accept_redirects"),
)
"""All are 0 on a pod's own interface."""


def of_gateway(link: str) -> list[Sysctl]:
    """For the device that pods have as their gateway: a bridge, or obr0."""
    return [Sysctl(f"{place}/{link}/{name}", "0") for place, name in ROUTER]


def of_pod(link: str) -> list[Sysctl]:
    """For a pod's end of a veth pair, inside its namespace."""
    return [Sysctl(f"{place}/{link}/{name}", "0") for place, name in POD]


def of_port(link: str) -> list[Sysctl]:
    """For the host's end: it carries frames between pod and bridge, and has no address itself."""
    return [Sysctl(f"net/ipv6/conf/{link}/accept_ra", "0")]
