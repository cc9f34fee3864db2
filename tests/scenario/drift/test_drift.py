# SPDX-License-Identifier: Apache-2.0
"""Somebody changes a host's network by hand: the daemon puts it right when netlink tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lab.cluster import Lab

On = Callable[..., str]
Eventually = Callable[..., None]


def reaches(lab: Lab, on: On) -> bool:
    first, last = lab.pods[0], lab.pods[-1]
    assert first.host != last.host
    return "1 received" in on(first.netns, f"ping -c 1 -W 1 {last.addresses[0]}", check=False)


def state(lab: Lab, on: On, number: int) -> dict[str, object]:
    """All that a peer needs on a host, without counters and timers."""
    netns = lab.names.host(number)
    (link,) = json.loads(on(netns, "ip -d -json link show flannel.1"))
    return {
        "mac": link["address"],
        "mtu": link["mtu"],
        "vxlan": {k: link["linkinfo"]["info_data"][k] for k in ("id", "port", "learning")},
        "routes": {
            (route["dst"], route["gateway"])
            for route in json.loads(on(netns, "ip -json route show dev flannel.1"))
        },
        "neighbours": {
            (entry["dst"], entry["lladdr"])
            for entry in json.loads(on(netns, "ip -json neigh show dev flannel.1"))
        },
        "fdb": {
            (entry["mac"], entry.get("dst"))
            for entry in json.loads(on(netns, "bridge -json fdb show dev flannel.1"))
        },
        "table": on(netns, "nft list table inet flatmesh"),
    }


EACH_ROUTE = "ip route del, one by one"
BREAKAGES = {
    "routes deleted": EACH_ROUTE,
    "device deleted": "ip link del flannel.1",
    "device down": "ip link set flannel.1 down",
    "MTU changed": "ip link set flannel.1 mtu 1200",
    "nexthops deleted": "ip nexthop flush proto 102",
    "neighbours flushed": "ip neigh flush dev flannel.1 nud permanent",
    "FDB flushed": "bridge fdb flush dev flannel.1",
    "nft table deleted": "nft delete table inet flatmesh",
    "nft chain flushed": "nft flush chain inet flatmesh postrouting",
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_what_was_changed_by_hand_is_repaired(
    cluster: Lab, on: On, eventually: Eventually, breakage: str
) -> None:
    before = state(cluster, on, 1)
    if breakage == EACH_ROUTE:  # `ip route flush` fails on routes by nexthop objects
        for destination, _ in before["routes"]:  # type: ignore[attr-defined]
            on(cluster.names.host(1), f"ip route del {destination}")
    else:
        on(cluster.names.host(1), breakage)

    def repaired() -> bool:
        try:
            return state(cluster, on, 1) == before
        except AssertionError:  # the device is not back yet
            return False

    eventually(repaired, f"{breakage} is repaired")
    assert reaches(cluster, on)


def test_device_of_wrong_vni_and_port_is_put_right_at_start(
    cluster: Lab, on: On, eventually: Eventually
) -> None:
    host = cluster.names.host(2)
    before = state(cluster, on, 2)
    cluster.stop_daemon(2)
    on(host, "ip link del flannel.1")
    on(host, "ip link add flannel.1 mtu 1300 type vxlan id 9 dstport 4789 dev eth0")
    cluster.start_daemon(2)
    cluster.wait_ready(2)
    eventually(lambda: state(cluster, on, 2) == before, "the device is put right")
    assert reaches(cluster, on)


def test_underlay_that_goes_down_and_up_is_used_again(
    cluster: Lab, on: On, eventually: Eventually
) -> None:
    host = cluster.names.host(1)
    on(host, "ip link set eth0 down")
    on(host, "ip link set eth0 up")
    on(host, "ip route replace default via 192.168.64.1")
    eventually(lambda: reaches(cluster, on), "pods reach each other again")
