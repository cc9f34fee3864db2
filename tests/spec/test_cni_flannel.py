# SPDX-License-Identifier: Apache-2.0
"""`flannel`: existing conflists, with the reference bridge plugin or our own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.spec.cni_host import REFERENCE, CniHost
from tests.spec.reference_plugins import addresses, reserved

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)


def flannel(host: CniHost, **changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "flannel",
        "dataDir": str(host.directory / "flannel"),
        "ipam": {"dataDir": str(host.directory / "host-local")},
        "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        **changes,
    }


def kept(host: CniHost) -> list[str]:
    directory = host.directory / "flannel"
    return sorted(p.name for p in directory.glob("[!.]*")) if directory.is_dir() else []


def test_a_flannel_conflist_works_unchanged(host: CniHost, container: str) -> None:
    config, pod = flannel(host), host.pod()
    result = host.call("ADD", config, container, pod, plugin="flannel").result()
    assert result["cniVersion"] == "0.3.1"
    assert result["interfaces"][0]["name"] == "cni0"
    assert len(addresses(host, pod)) == 2
    given = {ip["address"].partition("/")[0] for ip in result["ips"]}
    assert set(host.held()) == given  # from our own store, not host-local's
    assert reserved(host, "cbr0") == []
    (inside,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert inside["mtu"] == 1450
    routes = {(r["dst"], r.get("gateway")) for r in host.ip("route", pod=pod)}
    assert {("default", "10.5.72.1"), ("10.5.0.0/16", "10.5.72.1")} <= routes
    assert kept(host) == [container]
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert host.held() == []
    host.call("DEL", config, container, pod, plugin="flannel").result()
    host.run("ip", "link", "del", "cni0")


def test_flannel_s_state_stays_until_the_delegate_s_del_succeeds(
    host: CniHost, container: str
) -> None:
    config, pod = flannel(host), host.pod()
    host.call("ADD", config, container, pod, plugin="flannel").result()
    answer = host.call(
        "DEL",
        config,
        container,
        pod,
        plugin="flannel",
        environment={"CNI_PATH": "/nowhere"},
    )
    assert "bridge" in answer.refused(7)
    assert kept(host) == [container]
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert host.held() == []
    host.run("ip", "link", "del", "cni0")


def test_flannel_takes_over_what_the_real_meta_plugin_left(host: CniHost, container: str) -> None:
    """Its state file names no interface, and its delegate was bridge with host-local."""
    config, pod = flannel(host), host.pod()
    host.call("ADD", config, container, pod, plugin="flannel").result()
    state = host.directory / "flannel" / container
    content = json.loads(state.read_text())
    del content["flatmesh.attachment"]
    assert content["ipam"]["type"] == "flatmesh-ipam"
    state.write_text(json.dumps(content))
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert host.held() == []
    host.run("ip", "link", "del", "cni0")


def test_flannel_joins_one_container_twice(host: CniHost, container: str) -> None:
    config, pod = flannel(host), host.pod()
    for ifname in ("eth0", "eth1"):
        host.call("ADD", config, container, pod, plugin="flannel", ifname=ifname).result()
    assert len(kept(host)) == 2
    host.call("DEL", config, container, pod, plugin="flannel", ifname="eth0").result()
    assert len(addresses(host, pod, "eth1")) == 2
    assert len(host.held()) == 2
    host.call("DEL", config, container, pod, plugin="flannel", ifname="eth1").result()
    assert kept(host) == []
    host.run("ip", "link", "del", "cni0")


@pytest.mark.parametrize("reason", ["bridge is not installed", "the section says so"])
def test_flannel_uses_our_own_bridge(host: CniHost, container: str, reason: str) -> None:
    config, pod = flannel(host), host.pod()
    environment = {"CNI_PATH": str(host.bin_dir)} if "not" in reason else {}
    if not environment:
        config["delegate"]["type"] = "flatmesh"
        config["delegate"]["bridge"] = "cni0"
    call = {"plugin": "flannel", "environment": environment}
    result = host.call("ADD", config, container, pod, **call).result()
    assert result["interfaces"][0]["name"] == "cni0"
    assert len(addresses(host, pod)) == 2
    assert ("cbr0", container, "eth0") in host.records()
    host.call("DEL", config, container, pod, **call).result()
    assert not host.records()
    host.run("ip", "link", "del", "cni0")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"delegate": []}, "delegate"),
        ({"delegate": {"name": "x"}}, "name"),
        ({"delegate": {"ipam": {}}}, "ipam"),
        ({"dataDir": 7}, "dataDir"),
        ({"dataDir": "relative"}, "dataDir"),
        ({"ipam": []}, "ipam"),
    ],
)
def test_a_bad_flannel_config_is_refused(
    host: CniHost, container: str, changes: dict[str, Any], word: str
) -> None:
    config = flannel(host, **changes)
    answer = host.call("ADD", config, container, host.pod(), plugin="flannel")
    assert word in answer.refused(7)
    assert kept(host) == []


def test_flannel_without_a_lease_is_refused(host: CniHost, container: str) -> None:
    (host.directory / "subnet.env").unlink()
    answer = host.call("ADD", flannel(host), container, host.pod(), plugin="flannel")
    assert "no lease" in answer.refused(50)
