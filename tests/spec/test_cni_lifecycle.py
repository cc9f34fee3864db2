# SPDX-License-Identifier: Apache-2.0
"""What a pod gets, in every version of the specification, and how it goes away again."""

from __future__ import annotations

import pytest

from cni import versions
from tests.spec.cni_host import CniHost, MakeConf, addresses

MODERN = [v for v in versions.SUPPORTED if versions.at_least(v, "0.3.0")]
CHECKED = [v for v in versions.SUPPORTED if versions.at_least(v, "0.4.0")]


def routes(host: CniHost, pod: str, family: str = "-4") -> set[tuple[str, str | None]]:
    return {(r["dst"], r.get("gateway")) for r in host.ip(family, "route", pod=pod)}


def without_trace(host: CniHost, container: str) -> None:
    assert not [r for r in host.records() if r[1] == container]
    alias = [link.get("ifalias", "") for link in host.ip("link", "show", "type", "veth")]
    assert not [a for a in alias if container in a]


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_a_pod_comes_and_goes_in_every_version(
    host: CniHost, container: str, conf: MakeConf, version: str
) -> None:
    pod, config = host.pod(), conf(cniVersion=version)
    result = host.call("ADD", config, container, pod).result()
    assert result["cniVersion"] == version
    if version in MODERN:
        got = [ip["address"] for ip in result["ips"]]
        assert ("version" in result["ips"][0]) == (version not in ("1.0.0", "1.1.0"))
        inside = result["interfaces"][result["ips"][0]["interface"]]
        assert (inside["name"], inside["sandbox"]) == ("eth0", pod)
        (link,) = host.ip("link", "show", "dev", "eth0", pod=pod)
        assert link["address"] == inside["mac"]
        assert ("mtu" in inside) == (version == "1.1.0")
    else:
        got = [result["ip4"]["ip"], result["ip6"]["ip"]]
    assert addresses(host, pod) == set(got)
    assert host.call("DEL", config, container, pod).result() is None
    without_trace(host, container)
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]


@pytest.mark.parametrize("version", CHECKED)
def test_check_accepts_what_add_made(
    host: CniHost, container: str, conf: MakeConf, version: str
) -> None:
    pod, config = host.pod(), conf(cniVersion=version)
    result = host.call("ADD", config, container, pod).result()
    assert host.call("CHECK", {**config, "prevResult": result}, container, pod).result() is None
    host.call("DEL", config, container, pod).result()


def test_the_wiring_is_what_the_result_says(host: CniHost, container: str, conf: MakeConf) -> None:
    pod = host.pod()
    result = host.call("ADD", conf(), container, pod).result()
    bridge, near, far = result["interfaces"]
    gateway = result["ips"][0]["gateway"]
    assert (bridge["name"], gateway) == ("kbr0", "10.5.72.1")
    (link,) = host.ip("addr", "show", "dev", "kbr0")
    assert link["mtu"] == 1450
    assert link["address"] == bridge["mac"]
    held = {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}
    assert held == {"10.5.72.1/22", "fd00:5:0:7::1/64"}
    (port,) = host.ip("link", "show", "dev", near["name"])
    assert (port["master"], port["mtu"], port["address"]) == ("kbr0", 1450, near["mac"])
    assert not host.ip("addr", "show", "dev", near["name"])[0]["addr_info"]
    (inside,) = host.ip("link", "show", "dev", far["name"], pod=pod)
    assert inside["mtu"] == 1450
    assert routes(host, pod) == {
        ("default", gateway),
        ("10.5.0.0/16", gateway),
        ("10.5.72.0/22", None),
    }
    assert {("default", "fd00:5:0:7::1"), ("fd00:5::/48", "fd00:5:0:7::1")} <= routes(
        host, pod, "-6"
    )
    assert host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout == "1\n"
    host.call("DEL", conf(), container, pod).result()


def test_pods_and_host_reach_each_other_at_once(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    one, other = host.pod(), host.pod()
    host.call("ADD", conf(), f"{container}-1", one).result()
    result = host.call("ADD", conf(), f"{container}-2", other).result()
    for ip in result["ips"]:
        address = ip["address"].partition("/")[0]
        for where in (one, None):
            done = host.run("ping", "-c", "1", "-W", "5", address, pod=where)
            assert done.returncode == 0, done.stdout
    for number, pod in ((1, one), (2, other)):
        host.call("DEL", conf(), f"{container}-{number}", pod).result()


def test_ipv6_addresses_are_usable_at_once_even_where_ipv6_was_off(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    for name in ("all", "default"):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1", pod=pod)
    host.call("ADD", conf(), container, pod).result()
    (link,) = host.ip("-6", "addr", "show", "dev", "eth0", pod=pod)
    ours = [a for a in link["addr_info"] if a["scope"] == "global"]
    assert len(ours) == 1
    assert not ours[0].get("tentative")
    host.call("DEL", conf(), container, pod).result()


def test_the_bridge_keeps_its_mac_and_mtu_as_pods_come_and_go(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pods = [host.pod() for _ in range(3)]
    seen = set()
    for number, pod in enumerate(pods):
        host.call("ADD", conf(), f"{container}-{number}", pod).result()
        (link,) = host.ip("link", "show", "dev", "kbr0")
        seen.add((link["address"], link["mtu"]))
    for number, pod in enumerate(pods):
        host.call("DEL", conf(), f"{container}-{number}", pod).result()
        (link,) = host.ip("link", "show", "dev", "kbr0")
        seen.add((link["address"], link["mtu"]))
    assert seen == {("0a:58:0a:05:48:01", 1450)}


def test_an_address_given_again_keeps_its_hardware_address(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    macs = set()
    for number in range(2):
        pod = host.pod()
        variables = {"CNI_ARGS": "IP=10.5.73.77"}
        result = host.call("ADD", conf(), f"{container}-{number}", pod, environment=variables)
        macs.add(result.result()["interfaces"][2]["mac"])
        host.call("DEL", conf(), f"{container}-{number}", pod).result()
    assert macs == {"0a:58:0a:05:49:4d"}


def test_del_succeeds_however_often_and_however_little_is_left(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    host.call("DEL", conf(), container, pod).result()  # never added
    host.call("ADD", conf(), container, pod).result()
    host.call("DEL", conf(), container, pod).result()
    host.call("DEL", conf(), container, pod).result()
    host.call("DEL", conf(), container, "").result()  # as containerd does, the second time
    host.call("DEL", conf(), container, "/run/netns/gone").result()
    host.call("DEL", conf(), container, environment={"CNI_NETNS": None}).result()
    without_trace(host, container)


def test_del_after_the_netns_went_frees_the_address(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    host.call("ADD", conf(), container, pod).result()
    host.remove_pod(pod)
    host.call("DEL", conf(), container, pod).result()
    without_trace(host, container)


def test_del_of_the_host_s_own_netns_leaves_the_host_alone(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    host.run("ip", "link", "add", "eth0", "type", "bridge")
    answer = host.call("DEL", conf(), container, f"/run/netns/{host.name}")
    assert answer.result() is None
    assert host.ip("link", "show", "dev", "eth0")
    host.run("ip", "link", "del", "eth0")


def test_del_of_a_pod_never_added_leaves_its_interfaces_alone(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9", pod=pod)
    host.call("DEL", conf(), container, pod).result()
    assert {link["ifname"] for link in host.ip("link", "show", pod=pod)} == {"lo", "eth0", "eth9"}


def test_an_interface_that_exists_is_left_alone(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    host.run("ip", "link", "add", "eth0", "type", "bridge", pod=pod)
    assert "exists" in host.call("ADD", conf(), container, pod).refused(102)
    (link,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert link["linkinfo"]["info_kind"] == "bridge"
    without_trace(host, container)


def test_a_second_add_is_refused_and_the_first_stays(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    first = host.call("ADD", conf(), container, pod).result()
    host.call("ADD", conf(), container, pod).refused(102)
    host.call("ADD", conf(), container, host.pod()).refused(102)  # the same pod elsewhere
    assert addresses(host, pod) == {ip["address"] for ip in first["ips"]}
    host.call("DEL", conf(), container, pod).result()


def test_a_pod_whose_netns_was_made_anew_can_be_added_without_del(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    host.call("ADD", conf(), container, pod).result()
    host.remove_pod(pod)
    host.until(lambda: not host.host_interfaces(), "the kernel removes the veth pair")
    again = host.pod()
    host.call("ADD", conf(), container, again).result()
    assert len([r for r in host.records() if r[1] == container]) == 1
    host.call("DEL", conf(), container, again).result()


def test_two_adds_at_once_for_one_pod_give_one_pod(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    calls = [host.start("ADD", conf(), container, pod) for _ in range(4)]
    answers = [host.finish(call) for call in calls]
    # one that comes while the first one's answer is under way counts as the same ADD, repeated
    results = [answer.result() for answer in answers if answer.status == 0]
    assert results == results[:1] * len(results) != []
    for answer in answers:
        if answer.status:
            answer.refused(102)
    assert len([r for r in host.records() if r[1] == container]) == 1
    host.call("DEL", conf(), container, pod).result()
    without_trace(host, container)


def test_add_and_del_at_once_leave_all_or_nothing(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    calls = [host.start(c, conf(), container, pod) for c in ("ADD", "DEL", "ADD", "DEL")]
    for call in calls:
        host.finish(call)
    there = any(r[1] == container for r in host.records())
    inside = [link["ifname"] for link in host.ip("link", "show", pod=pod)]
    assert inside == (["lo", "eth0"] if there else ["lo"])
    host.call("DEL", conf(), container, pod).result()
    without_trace(host, container)


def test_one_pod_in_two_networks_and_twice_in_one(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    blue, green = conf(name="blue"), conf(name="green")
    for config, ifname in ((blue, "eth0"), (green, "eth1"), (green, "eth2")):
        host.call("ADD", config, container, pod, ifname=ifname).result()
    held = [addresses(host, pod, name) for name in ("eth0", "eth1", "eth2")]
    assert len(set.union(*held)) == 6
    host.call("DEL", green, container, pod, ifname="eth1").result()
    assert {link["ifname"] for link in host.ip("link", "show", pod=pod)} == {"lo", "eth0", "eth2"}
    assert {(r[0], r[2]) for r in host.records() if r[1] == container} == {
        ("blue", "eth0"),
        ("green", "eth2"),
    }
    host.call("DEL", blue, container, pod, ifname="eth0").result()
    host.call("DEL", green, container, pod, ifname="eth2").result()
    without_trace(host, container)


def test_many_adds_at_once_give_each_pod_its_own_address(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pods = [host.pod() for _ in range(12)]
    calls = [host.start("ADD", conf(), f"{container}-{n}", pod) for n, pod in enumerate(pods)]
    results = [host.finish(call).result() for call in calls]
    given = [ip["address"] for result in results for ip in result["ips"]]
    assert len(set(given)) == len(given) == 24
    calls = [host.start("DEL", conf(), f"{container}-{n}", pod) for n, pod in enumerate(pods)]
    for call in calls:
        host.finish(call).result()
    assert not host.records()
    assert not host.host_interfaces()


def test_a_prev_result_of_an_older_version_is_extended(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    older = {
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "dummy9", "sandbox": pod}],
        "ips": [{"version": "4", "interface": 0, "address": "192.0.2.9/24"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    result = host.call("ADD", conf(prevResult=older), container, pod).result()
    assert result["ips"][0] == {"interface": 0, "address": "192.0.2.9/24"}
    assert [ip["interface"] for ip in result["ips"]] == [0, 3, 3]
    assert [i["name"] for i in result["interfaces"]][:2] == ["dummy9", "kbr0"]
    assert result["dns"] == {"nameservers": ["192.0.2.53"]}
    host.call("DEL", conf(), container, pod).result()


@pytest.mark.parametrize(
    "damage",
    [
        ("addr", "flush", "dev", "eth0"),
        ("link", "set", "eth0", "address", "0a:58:00:00:00:99"),
        ("route", "del", "10.5.0.0/16"),
        ("link", "del", "eth0"),
    ],
)
def test_check_finds_what_was_damaged_in_the_pod(
    host: CniHost, container: str, conf: MakeConf, damage: tuple[str, ...]
) -> None:
    pod = host.pod()
    result = host.call("ADD", conf(), container, pod).result()
    host.run("ip", *damage, pod=pod)
    host.call("CHECK", conf(prevResult=result), container, pod).refused(103)
    host.call("DEL", conf(), container, pod).result()
    without_trace(host, container)


def test_check_finds_a_host_side_veth_outside_the_bridge(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    result = host.call("ADD", conf(), container, pod).result()
    host.run("ip", "link", "set", result["interfaces"][1]["name"], "nomaster")
    assert "port" in host.call("CHECK", conf(prevResult=result), container, pod).refused(103)
    host.call("DEL", conf(), container, pod).result()


def test_check_allows_what_later_plugins_changed(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    result = host.call("ADD", conf(), container, pod).result()
    host.run("ip", "link", "set", "eth0", "address", "0a:58:00:00:00:77", pod=pod)
    result["interfaces"][2]["mac"] = "0a:58:00:00:00:77"
    result["interfaces"].append({"name": "ifb9"})
    host.call("CHECK", conf(prevResult=result), container, pod).result()
    host.call("DEL", conf(), container, pod).result()
