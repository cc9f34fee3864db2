# SPDX-License-Identifier: Apache-2.0
"""The keys of the reference bridge plugin that users rely on, seen in the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import CniHost, MakeConf

MakeWorld = Callable[[CniHost], str]


def link(host: CniHost, name: str, pod: str | None = None) -> Any:
    (found,) = host.ip("link", "show", "dev", name, pod=pod)
    return found


def port(host: CniHost, result: dict[str, Any]) -> Any:
    """The host end's settings as a bridge port."""
    return link(host, result["interfaces"][1]["name"])["linkinfo"]["info_slave_data"]


def added(host: CniHost, container: str, config: dict[str, Any], **more: Any) -> tuple[str, Any]:
    pod = host.pod()
    return pod, host.call("ADD", config, container, pod, **more).result()


def deleted(host: CniHost, container: str, config: dict[str, Any], pod: str) -> None:
    host.call("DEL", config, container, pod).result()
    assert not [r for r in host.records() if r[1] == container]


def test_bridge_and_mtu(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(bridge="br-own", mtu=1300)
    pod, result = added(host, container, config)
    assert result["interfaces"][0]["name"] == "br-own"
    assert link(host, "br-own")["mtu"] == 1300
    assert link(host, "eth0", pod)["mtu"] == 1300
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-own")


def test_a_bridge_that_is_there_keeps_its_mtu_and_mac(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    host.run("ip", "link", "add", "br-op", "type", "bridge")
    host.run("ip", "link", "set", "br-op", "mtu", "1400")
    before = link(host, "br-op")
    config = conf(bridge="br-op")
    pod, _ = added(host, container, config)
    after = link(host, "br-op")
    assert (after["address"], after.get("ifalias")) == (before["address"], None)
    assert after["mtu"] == 1400
    assert "UP" in after["flags"]
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-op")


def test_hairpin(host: CniHost, container: str, conf: MakeConf) -> None:
    for wanted in (True, False):
        config = conf(hairpinMode=wanted)
        pod, result = added(host, container, config)
        assert port(host, result)["hairpin"] is wanted
        deleted(host, container, config, pod)


def test_port_isolation(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(portIsolation=True)
    one, result = added(host, f"{container}-1", config)
    other, its = added(host, f"{container}-2", config)
    assert port(host, result)["isolated"] is True
    address = its["ips"][0]["address"].partition("/")[0]
    assert host.run("ping", "-c1", "-W1", address, pod=one).returncode != 0
    assert host.run("ping", "-c1", "-W5", "10.5.72.1", pod=one).returncode == 0
    deleted(host, f"{container}-1", config, one)
    deleted(host, f"{container}-2", config, other)


def test_promiscuous_bridge(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(bridge="br-promisc", promiscMode=True)
    pod, _ = added(host, container, config)
    assert "PROMISC" in link(host, "br-promisc")["flags"]
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-promisc")


@pytest.mark.parametrize("how", ["CNI_ARGS", "args.cni.mac", "runtimeConfig.mac"])
def test_a_mac_can_be_asked_for(host: CniHost, container: str, conf: MakeConf, how: str) -> None:
    mac = "0a:58:00:aa:bb:cc"
    changes: dict[str, Any] = {}
    environment = {}
    if how == "CNI_ARGS":
        environment = {"CNI_ARGS": f"MAC={mac.upper()}"}
    elif how == "args.cni.mac":
        changes = {"args": {"cni": {"mac": mac}}}
    else:
        changes = {"runtimeConfig": {"mac": mac}, "args": {"cni": {"mac": "0a:58:00:00:00:01"}}}
    config = conf(**changes)
    pod, result = added(host, container, config, environment=environment)
    assert result["interfaces"][2]["mac"] == link(host, "eth0", pod)["address"] == mac
    deleted(host, container, config, pod)


def test_no_gateway_means_no_address_on_the_bridge_and_no_default_route(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(bridge="br-l3", isGateway=False, isDefaultGateway=False)
    pod, _ = added(host, container, config)
    (bridge,) = host.ip("addr", "show", "dev", "br-l3")
    assert not [a for a in bridge["addr_info"] if a["scope"] == "global"]
    assert "default" not in [r["dst"] for r in host.ip("route", pod=pod)]
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-l3")


def test_gateway_without_default_route(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(isDefaultGateway=False)
    pod, result = added(host, container, config)
    assert [r["dst"] for r in result["routes"]] == ["10.5.0.0/16", "fd00:5::/48"]
    assert "default" not in [r["dst"] for r in host.ip("route", pod=pod)]
    deleted(host, container, config, pod)


def test_an_empty_ipam_gives_a_port_and_no_address(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(bridge="br-l2", ipam={})
    pod, result = added(host, container, config)
    assert "ips" not in result
    assert [
        a
        for a in host.ip("addr", "show", "dev", "eth0", pod=pod)[0]["addr_info"]
        if a["scope"] == "global"
    ] == []
    assert "UP" in link(host, "eth0", pod)["flags"]
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-l2")


def test_disable_container_interface(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(bridge="br-l2", ipam={}, disableContainerInterface=True)
    pod, _ = added(host, container, config)
    assert "UP" not in link(host, "eth0", pod)["flags"]
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-l2")


def test_an_address_in_the_way_needs_force_address(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    def gateways() -> set[str]:
        (found,) = host.ip("addr", "show", "dev", "br-force")
        return {
            f"{a['local']}/{a['prefixlen']}" for a in found["addr_info"] if a["family"] == "inet"
        }

    host.run("ip", "link", "add", "br-force", "up", "type", "bridge")
    host.run("ip", "addr", "add", "10.5.73.1/24", "dev", "br-force")
    config = conf(bridge="br-force")
    pod = host.pod()
    assert "forceAddress" in host.call("ADD", config, container, pod).refused(7)
    assert gateways() == {"10.5.73.1/24"}
    assert not [r for r in host.records() if r[1] == container]
    config = conf(bridge="br-force", forceAddress=True)
    host.call("ADD", config, container, pod).result()
    assert gateways() == {"10.5.72.1/22"}
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-force")


def test_two_networks_have_their_gateways_on_one_bridge(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    def ranged(subnet: str) -> dict[str, Any]:
        return conf(
            name=f"net{subnet[3:5]}",
            bridge="br-two",
            ipam={"type": "flatmesh-ipam", "ranges": [[{"subnet": subnet}]]},
        )

    configs = [ranged("10.81.0.0/24"), ranged("10.82.0.0/24")]
    pods = [added(host, f"{container}-{n}", c)[0] for n, c in enumerate(configs)]
    (found,) = host.ip("addr", "show", "dev", "br-two")
    held = {a["local"] for a in found["addr_info"] if a["family"] == "inet"}
    assert held == {"10.81.0.1", "10.82.0.1"}
    for number, (config, pod) in enumerate(zip(configs, pods, strict=True)):
        deleted(host, f"{container}-{number}", config, pod)
    host.run("ip", "link", "del", "br-two")


def vlans_work(host: CniHost) -> bool:
    done = host.run("ip", "link", "add", "br-try", "type", "bridge", "vlan_filtering", "1")
    host.run("ip", "link", "del", "br-try")
    return done.returncode == 0


@pytest.mark.parametrize(
    "keys", [{"vlan": 100}, {"vlanTrunk": [{"id": 7}, {"minID": 20, "maxID": 22}]}]
)
def test_vlans(host: CniHost, container: str, conf: MakeConf, keys: dict[str, Any]) -> None:
    config = conf(
        bridge="br-vlan",
        ipam={},
        preserveDefaultVlan=False,
        isGateway=False,
        isDefaultGateway=False,
        **keys,
    )
    if not vlans_work(host):
        answer = host.call("ADD", config, container, host.pod())
        assert "VLAN" in answer.refused(7)  # says what the kernel lacks
        assert not [r for r in host.records() if r[1] == container]
        return
    pod, result = added(host, container, config)
    name = result["interfaces"][1]["name"]
    shown = json.loads(host.run("bridge", "-json", "vlan", "show", "dev", name).stdout)
    ids = {
        v
        for entry in shown[0]["vlans"]
        for v in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }
    assert ids == ({100} if "vlan" in keys else {7, 20, 21, 22})
    deleted(host, container, config, pod)
    host.run("ip", "link", "del", "br-vlan")


def nft(host: CniHost, family: str) -> dict[str, Any]:
    done = host.run("nft", "-json", "list", "table", family, "flatmesh_cni")
    sets = {}
    for item in json.loads(done.stdout or '{"nftables":[]}')["nftables"]:
        if "set" in item:
            sets[item["set"]["name"]] = item["set"].get("elem", [])
    return sets


def test_ip_masq_hides_the_pod_from_the_world_but_not_from_its_network(
    host: CniHost, container: str, conf: MakeConf, make_world: MakeWorld
) -> None:
    world = make_world(host)
    config = conf(ipMasq=True)
    pod, result = added(host, container, config)
    seen = from_whom(host, world, pod, "192.0.2.2")
    assert seen == "192.0.2.1"
    plain, _ = added(host, f"{container}-plain", conf())
    assert from_whom(host, world, plain, "192.0.2.2").startswith("10.5.")
    assert nft(host, "inet")["masq4"] == [result["ips"][0]["address"].partition("/")[0]]
    deleted(host, container, config, pod)
    deleted(host, f"{container}-plain", conf(), plain)
    assert nft(host, "inet")["masq4"] == nft(host, "inet")["masq6"] == []


def from_whom(host: CniHost, world: str, pod: str, address: str) -> str:
    """The source address that a server in the world sees of a datagram from the pod."""
    with_server = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(({address!r}, 9))
    server.settimeout(60)
    print("bound", flush=True)
    print(server.recvfrom(9)[1][0], flush=True)
"""
    server = subprocess.Popen(
        ["nsenter", f"--net={world}", sys.executable, "-I", "-c", with_server],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "bound\n"
        send = f"import socket;socket.socket(2,2).sendto(b'x',({address!r},9))"
        host.until(
            lambda: host.run("ping", "-c1", "-W1", address, pod=pod).returncode == 0, "the world"
        )
        assert host.run(sys.executable, "-I", "-c", send, pod=pod).returncode == 0
        return server.stdout.readline().strip()
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def make_world() -> MakeWorld:
    """A namespace that the host reaches by 192.0.2.0/24 and that knows a way back to the pods."""

    def make(host: CniHost) -> str:
        world = host.pod()
        host.run("ip", "link", "del", "wan0")
        host.run(
            "ip",
            "link",
            "add",
            "wan0",
            "type",
            "veth",
            "peer",
            "name",
            "wan1",
            "netns",
            Path(world).name,
        )
        host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "wan0")
        host.run("ip", "link", "set", "wan0", "up")
        host.run("ip", "addr", "add", "192.0.2.2/24", "dev", "wan1", pod=world)
        host.run("ip", "link", "set", "wan1", "up", pod=world)
        host.run("ip", "route", "add", "10.5.0.0/16", "via", "192.0.2.1", pod=world)
        return world

    return make


def test_mac_spoofing_is_dropped_with_macspoofchk(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(macspoofchk=True)
    pod, result = added(host, container, config)
    name, mac = result["interfaces"][1]["name"], result["interfaces"][2]["mac"]
    assert nft(host, "bridge")["guarded"] == [name]
    assert nft(host, "bridge")["allowed"] == [{"concat": [name, mac]}]
    assert host.run("ping", "-c1", "-W5", "10.5.72.1", pod=pod).returncode == 0
    host.run("ip", "link", "set", "eth0", "address", "0a:58:de:ad:be:ef", pod=pod)
    assert host.run("ping", "-c1", "-W1", "10.5.72.1", pod=pod).returncode != 0
    deleted(host, container, config, pod)
    assert nft(host, "bridge")["guarded"] == nft(host, "bridge")["allowed"] == []


def test_firewall_elements_go_with_a_pod_that_gc_removes(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(macspoofchk=True, ipMasq=True, cniVersion="1.1.0")
    added(host, container, config)
    host.call("GC", {**config, "cni.dev/valid-attachments": []}).result()
    assert nft(host, "inet")["masq4"] == nft(host, "bridge")["guarded"] == []


def test_unknown_keys_are_tolerated_and_dns_is_passed_through(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    dns = {"nameservers": ["192.0.2.53"], "search": ["a.example"]}
    config = conf(dns=dns, somethingNew={"x": 1}, capabilities={"bandwidth": True})
    pod, result = added(host, container, config)
    assert result["dns"] == dns
    deleted(host, container, config, pod)


def test_an_attach_mode_leaves_the_host_end_to_the_daemon(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    mode = host.directory / "run" / "attach.json"
    mode.write_text('{"bridge": null, "mode": "ovs"}')
    try:
        pod, result = added(host, container, conf())
        assert [i["name"] for i in result["interfaces"]][1:] == ["eth0"]
        near = link(host, result["interfaces"][0]["name"])
        assert "master" not in near
        assert near["ifalias"] == f"flatmesh-pod pods {container} eth0"
        host.call("CHECK", conf(prevResult=result), container, pod).result()
        deleted(host, container, conf(), pod)
        mode.write_text("rubbish")
        assert "attach.json" in host.call("ADD", conf(), container, pod).refused(7)
    finally:
        mode.unlink()
