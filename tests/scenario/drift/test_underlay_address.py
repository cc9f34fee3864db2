# SPDX-License-Identifier: Apache-2.0
"""A host's underlay address changes: it is published in the same lease, and peers follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.cluster import Lab
from lab.hosts import host_ipv4
from tests.scenario.ovs_lab import backend

On = Callable[..., str]
Eventually = Callable[..., None]
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
    "ovs gre flow": backend("gre", "flow"),
    "ovs vxlan static": backend("vxlan", "static"),
    "ovs geneve obr0": backend("geneve", "flow", PodAttach="obr0"),
}


def reaches(lab: Lab, on: On, first: int, last: int) -> bool:
    ping = f"ping -c 1 -W 1 {lab.pods[last].addresses[0]}"
    return "1 received" in on(lab.pods[first].netns, ping, check=False)


def change_address(lab: Lab, on: On, old: str, new: str) -> None:
    """As an operator would: the new one, then the old one away, then the routes."""
    host = lab.names.host(1)
    on(host, f"ip addr add {new}/24 dev eth0")
    on(host, f"ip addr del {old}/24 dev eth0")
    on(host, f"ip addr del {new}/24 dev eth0", check=False)  # went with the old one, or goes now
    on(host, f"ip addr add {new}/24 dev eth0")
    on(host, "ip route replace default via 192.168.64.1")


def published(lab: Lab, on: On) -> str:
    prefix = "/coreos.com/network/subnets/"
    argv = f"etcdctl --endpoints={lab.endpoint} get --print-value-only --prefix {prefix}"
    values = [json.loads(line) for line in on(lab.names.underlay, argv).splitlines() if line]
    other = host_ipv4(2)
    return " ".join(value["PublicIP"] for value in values if value["PublicIP"] != other)


@pytest.mark.parametrize("config", BACKENDS.values(), ids=BACKENDS.keys())
def test_changed_underlay_address_is_published_and_peers_follow(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually, config: dict[str, Any]
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend=config)
    eventually(lambda: reaches(lab, on, 0, 1), "pods reach each other")
    subnet = lab.subnet(1)
    old = host_ipv4(1)
    for new, daemon_runs in (("192.168.64.99", True), ("192.168.64.98", False)):
        if not daemon_runs:
            lab.stop_daemon(1)
        change_address(lab, on, old, new)
        if not daemon_runs:
            lab.start_daemon(1)
            lab.wait_ready(1)
        eventually(lambda a=new: published(lab, on) == a, f"{new} is published")
        for first, last in ((0, 1), (1, 0)):
            eventually(
                lambda f=first, t=last: reaches(lab, on, f, t),
                f"pods reach each other by {new}",
                timeout=60.0,  # WireGuard itself tries again after 15 s
            )
        old = new
    assert lab.subnet(1) == subnet
