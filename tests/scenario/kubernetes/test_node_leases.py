# SPDX-License-Identifier: Apache-2.0
"""The daemons with leases from a real API server: pods on every backend, and what breaks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from lab import processes
from lab.spec import LabPod
from lab.watched_stream import watched_stream
from tests.scenario.kubernetes.conftest import KubeCluster

Eventually = Callable[..., None]
On = Callable[..., str]
PREFIX = "flannel.alpha.coreos.com/"
BACKENDS: list[dict[str, Any]] = [
    {"Type": "vxlan"},
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
    {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"},
]


@pytest.fixture(scope="module", autouse=True)
def pods(kube_cluster: KubeCluster) -> tuple[LabPod, LabPod]:
    first, second = (kube_cluster.lab.add_pod(n, "p1") for n in kube_cluster.lab.host_numbers)
    assert (first.addresses[0], second.addresses[0]) == ("10.244.1.2", "10.244.2.2")
    return first, second


def said_of(cluster: KubeCluster, node: str) -> dict[str, str]:
    found = cluster.server.node(node)["metadata"]["annotations"]
    return {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one["Type"])
def test_pods_reach_each_other_after_a_change_of_the_configmap(
    kube_cluster: KubeCluster,
    pods: tuple[LabPod, LabPod],
    on: On,
    eventually: Eventually,
    backend: dict[str, Any],
) -> None:
    kube_cluster.configure(**backend)
    first, second = pods
    eventually(
        lambda: all(
            said_of(kube_cluster, f"h{n}").get("backend-type", "udp").replace("udp", "")
            == backend["Type"].replace("udp", "")
            for n in (1, 2)
        ),
        "both nodes say it",
        timeout=60,
    )
    eventually(
        lambda: "1 received" in on(first.netns, f"ping -c1 -W1 {second.addresses[0]}", check=False),
        "pods reach each other",
        timeout=60,
    )


def test_the_node_says_that_its_network_is_there(
    kube_cluster: KubeCluster, eventually: Eventually
) -> None:
    def condition(name: str) -> str:
        found = kube_cluster.server.node(name)["status"].get("conditions", [])
        return next((c["reason"] for c in found if c["type"] == "NetworkUnavailable"), "")

    eventually(
        lambda: {condition("h1"), condition("h2")} == {"FlannelIsUp"},
        "both are cleared",
        timeout=60,
    )


def test_the_api_server_may_be_away(
    kube_cluster: KubeCluster, pods: tuple[LabPod, LabPod], on: On, eventually: Eventually
) -> None:
    kube_cluster.configure(Type="vxlan")
    first, second = pods
    for number in kube_cluster.lab.host_numbers:
        host = kube_cluster.lab.names.host(number)
        eventually(
            lambda host=host: "dev flannel.1" in on(host, "ip route show root 10.244.0.0/16"),
            "vxlan is back",
            timeout=60,
        )
    before = [kube_cluster.server.node(name)["metadata"]["annotations"] for name in ("h1", "h2")]
    with watched_stream(first, second) as stream:
        eventually(lambda: stream.received > 50, "traffic flows", timeout=60)
        kube_cluster.server.stop()
        kube_cluster.lab.add_pod(1, "meanwhile")
        mark = stream.received
        eventually(lambda: stream.received > mark + 200, "traffic flows on")
        lost = stream.lost
        kube_cluster.server.start()
        mark = stream.received
        eventually(lambda: stream.received > mark + 200, "traffic flows on")
        assert stream.lost == lost
    kube_cluster.lab.delete_pod(1, "meanwhile")
    after = [kube_cluster.server.node(name)["metadata"]["annotations"] for name in ("h1", "h2")]
    assert after == before  # nothing is rewritten that was right


def test_a_daemon_that_is_killed_takes_its_mac_from_the_node(
    kube_cluster: KubeCluster, pods: tuple[LabPod, LabPod], on: On
) -> None:
    first, second = pods
    before = said_of(kube_cluster, "h1")
    assert json.loads(before["backend-data"])["VtepMAC"]
    pid = kube_cluster.daemon(1).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    processes.stop([pid])
    on(kube_cluster.lab.names.host(1), "ip link del flannel.1")
    kube_cluster.daemon(1).start()
    kube_cluster.daemon(1).wait_ready()
    assert said_of(kube_cluster, "h1") == before
    on(first.netns, f"ping -c3 -W5 {second.addresses[0]}")


def test_a_removed_nodes_peer_is_gone_and_comes_back(
    kube_cluster: KubeCluster, pods: tuple[LabPod, LabPod], on: On, eventually: Eventually
) -> None:
    host = kube_cluster.lab.names.host(1)
    assert "10.244.2.0/24" in on(host, "ip route")
    kube_cluster.server.remove_node("h2")
    eventually(lambda: "10.244.2.0/24" not in on(host, "ip route"), "its route is gone", timeout=5)
    assert "10.244.2.0/24" not in on(host, "bridge fdb")
    kube_cluster.server.make_node("h2", kube_cluster.subnet(2))
    first, second = pods
    eventually(
        lambda: "1 received" in on(first.netns, f"ping -c1 -W1 {second.addresses[0]}", check=False),
        "the node registers again, with the same podCIDR",
        timeout=60,
    )
