# SPDX-License-Identifier: Apache-2.0
"""Limits: an exhausted pool, two networks on one host, an ADD that fails half-way."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lab import hosts
from lab.cluster import Lab
from lab.runtime import PluginError, PodInterface

On = Callable[..., str]


def test_exhausted_pool_is_one_clear_error_and_leaves_nothing(
    make_lab: Callable[..., Lab], on: On
) -> None:
    # a /29 holds 6 hosts: the gateway and 5 pods
    lab = make_lab(hosts=1, pods_per_host=5, network="10.5.0.0/26", subnet_len=29)
    host = lab.names.host(1)
    before = {link["ifname"] for link in json.loads(on(host, "ip -json link"))}
    with pytest.raises(PluginError) as refusal:
        lab.add_pod(1, "onetoomany")
    assert "10.5.0." in refusal.value.message
    assert "\n" not in refusal.value.message
    assert {link["ifname"] for link in json.loads(on(host, "ip -json link"))} == before
    freed = next(p for p in lab.pods if p.name == "p3")
    lab.delete_pod(1, "p3")
    assert lab.add_pod(1, "fits").addresses == freed.addresses


def test_two_networks_on_one_host_are_apart(cluster: Lab, on: On) -> None:
    second = {
        "cniVersion": "1.0.0",
        "name": "storage",
        "plugins": [
            {
                "type": "flatmesh",
                "bridge": "kbr1",
                "ipam": {
                    "type": "flatmesh-ipam",
                    "ranges": [[{"subnet": "10.99.0.0/24"}]],
                },
            }
        ],
    }
    runtime = cluster.runtime(1)
    pod = cluster.add_pod(1, "both")
    attachment = cluster.pod_interface(1, "both")
    extra = PodInterface(attachment.container_id, attachment.netns, "net1")
    result = runtime.add(second, extra)
    try:
        assert result["ips"][0]["address"].startswith("10.99.0.")
        addresses = on(pod.netns, "ip -brief addr")
        assert pod.addresses[0] in addresses
        assert "10.99.0." in addresses
        # taking one network away leaves the other one alone
        runtime.delete(second, extra, result)
        assert "net1" not in on(pod.netns, "ip -brief link")
        other = next(p for p in cluster.pods if p.host == 2)
        assert "1 received" in on(pod.netns, f"ping -c 1 -W 5 {other.addresses[0]}")
    finally:
        runtime.delete(second, extra)
        cluster.delete_pod(1, "both")
        hosts.ip("-n", cluster.names.host(1), "link", "del", "kbr1")


def test_malformed_conflist_gets_the_specs_code(cluster: Lab) -> None:
    netns = hosts.make_pod(cluster.names, 1, "badconf")
    attachment = PodInterface("badconf", str(netns))
    broken = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{"type": "flatmesh", "mtu": "large"}],
    }
    try:
        with pytest.raises(PluginError) as refusal:
            cluster.runtime(1).add(broken, attachment)
        assert refusal.value.code == 7
        assert "mtu" in refusal.value.message
    finally:
        hosts.remove(netns.name)
