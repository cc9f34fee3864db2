# SPDX-License-Identifier: Apache-2.0
"""flatmesh-ipam: below the reference bridge plugin, and with host-local's config."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.cni_host import REFERENCE, Answer, CniHost, MakeConf
from tests.spec.reference_plugins import addresses

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_our_ipam_serves_the_reference_bridge(host: CniHost, container: str, version: str) -> None:
    config = {
        "cniVersion": version,
        "name": "refbr",
        "type": "bridge",
        "bridge": "brref",
        "isDefaultGateway": True,
        "ipam": {"type": "flatmesh-ipam"},
    }
    pod = host.pod()
    result = host.call("ADD", config, container, pod, plugin="bridge").result()
    held = addresses(host, pod)
    assert len(held) == 2
    if version == "0.2.0":
        assert {result["ip4"]["ip"], result["ip6"]["ip"]} == held
    else:
        assert {ip["address"] for ip in result["ips"]} == held
    routes = {(r["dst"], r.get("gateway")) for r in host.ip("route", pod=pod)}
    assert {("default", "10.5.72.1"), ("10.5.0.0/16", "10.5.72.1")} <= routes
    if version in ("0.4.0", "1.0.0"):
        with_result = {**config, "prevResult": result}
        host.call("CHECK", with_result, container, pod, plugin="bridge").result()
    host.call("DEL", config, container, pod, plugin="bridge").result()
    host.call("DEL", config, container, pod, plugin="bridge").result()
    assert not [r for r in host.records() if r[1] == container]
    host.run("ip", "link", "del", "brref")


def test_our_ipam_reads_host_local_s_config(host: CniHost, container: str) -> None:
    resolv = host.directory / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:3\n")
    config = {
        "cniVersion": "1.0.0",
        "name": "ranges",
        "ipam": {
            "type": "flatmesh-ipam",
            "subnet": "10.90.0.0/24",
            "rangeStart": "10.90.0.100",
            "rangeEnd": "10.90.0.101",
            "gateway": "10.90.0.254",
            "ranges": [[{"subnet": "fd00:90::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "10.90.0.253"}],
            "resolvConf": str(resolv),
            "dataDir": str(host.directory / "own-store"),
        },
    }

    def add(number: int, **more: Any) -> Answer:
        return host.call(
            "ADD", config, f"{container}-{number}", "/x", plugin="flatmesh-ipam", **more
        )

    first = add(1).result()
    assert "interfaces" not in first
    assert first["ips"] == [
        {"address": "10.90.0.100/24", "gateway": "10.90.0.254"},
        {"address": "fd00:90::2/64", "gateway": "fd00:90::1"},
    ]
    assert first["routes"][1] == {"dst": "198.51.100.0/24", "gw": "10.90.0.253"}
    assert first["dns"] == {
        "nameservers": ["192.0.2.53"],
        "search": ["a.example", "b.example"],
        "options": ["ndots:3"],
    }
    assert (host.directory / "own-store" / "addresses.sqlite").exists()
    add(1).refused(102)
    assert add(2).result()["ips"][0]["address"] == "10.90.0.101/24"
    add(3).refused(101)
    checked = {**config, "prevResult": first}
    host.call("CHECK", checked, f"{container}-1", "/x", plugin="flatmesh-ipam").result()
    for number in (1, 2, 3):
        for _ in range(2):
            host.call("DEL", config, f"{container}-{number}", plugin="flatmesh-ipam").result()
    host.call("CHECK", checked, f"{container}-1", "/x", plugin="flatmesh-ipam").refused(103)


@pytest.mark.parametrize("how", ["CNI_ARGS", "args.cni.ips", "runtimeConfig.ips"])
def test_an_address_can_be_asked_for(
    host: CniHost, container: str, conf: MakeConf, how: str
) -> None:
    changes: dict[str, Any] = {}
    environment = {}
    if how == "CNI_ARGS":
        environment = {"CNI_ARGS": "IgnoreUnknown=1;IP=10.5.74.9"}
    elif how == "args.cni.ips":
        changes = {"args": {"cni": {"ips": ["10.5.74.9"]}}}
    else:
        changes = {"runtimeConfig": {"ips": ["10.5.74.9/22"]}}
    pod = host.pod()
    config = conf(**changes)
    host.call("ADD", config, container, pod, environment=environment).result()
    assert "10.5.74.9/22" in addresses(host, pod)
    answer = host.call("ADD", config, f"{container}-2", host.pod(), environment=environment)
    assert "10.5.74.9" in answer.refused(101)
    host.call("DEL", config, container, pod).result()
