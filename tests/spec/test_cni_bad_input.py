# SPDX-License-Identifier: Apache-2.0
"""Everything a runtime, or a person, can get wrong: the code, one line, and nothing touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.spec.cni_host import CniHost, MakeConf

OK = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh"}
NEW = {**OK, "cniVersion": "1.1.0"}
HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]]}
PREV_1_0 = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.5.72.9/22", "interface": 0}],
}


def ranges(*sets: Any, **more: Any) -> dict[str, Any]:
    return {**OK, "ipam": {"type": "flatmesh-ipam", "ranges": list(sets), **more}}


# name: (command, variables, config or bytes, code, a word of the message)
ADD_CASES = {
    "no command": ({"CNI_COMMAND": None}, OK, 4, "CNI_COMMAND"),
    "empty command": ({"CNI_COMMAND": ""}, OK, 4, "CNI_COMMAND"),
    "command in lower case": ({"CNI_COMMAND": "add"}, OK, 4, "CNI_COMMAND"),
    "unknown command": ({"CNI_COMMAND": "UPDATE"}, OK, 4, "UPDATE"),
    "no container id": ({"CNI_CONTAINERID": None}, OK, 4, "CNI_CONTAINERID"),
    "empty container id": ({"CNI_CONTAINERID": ""}, OK, 4, "CNI_CONTAINERID"),
    "no netns": ({"CNI_NETNS": None}, OK, 4, "CNI_NETNS"),
    "no interface name": ({"CNI_IFNAME": None}, OK, 4, "CNI_IFNAME"),
    "container id with a slash": ({"CNI_CONTAINERID": "a/b"}, OK, 4, "CNI_CONTAINERID"),
    "container id that climbs": ({"CNI_CONTAINERID": "../x"}, OK, 4, "CNI_CONTAINERID"),
    "container id with a blank": ({"CNI_CONTAINERID": "a b"}, OK, 4, "CNI_CONTAINERID"),
    "container id with a newline": ({"CNI_CONTAINERID": "a\nb"}, OK, 4, "CNI_CONTAINERID"),
    "interface name with a slash": ({"CNI_IFNAME": "a/b"}, OK, 4, "CNI_IFNAME"),
    "interface name with a colon": ({"CNI_IFNAME": "a:b"}, OK, 4, "CNI_IFNAME"),
    "interface name with a blank": ({"CNI_IFNAME": "a b"}, OK, 4, "CNI_IFNAME"),
    "interface name of 16 letters": ({"CNI_IFNAME": "a" * 16}, OK, 4, "CNI_IFNAME"),
    "interface name that the kernel completes": ({"CNI_IFNAME": "eth%d"}, OK, 4, "CNI_IFNAME"),
    "interface name that is no UTF-8": ({"CNI_IFNAME": "eth\udcff"}, OK, 4, "must be UTF-8"),
    "ipam that is the plugin itself": (
        {},
        {**OK, "ipam": {"type": "flatmesh"}},
        7,
        "did you mean flatmesh-ipam?",
    ),
    "ipam that is a main plugin": (
        {},
        {**OK, "ipam": {"type": "flannel"}},
        7,
        "gives no addresses",
    ),
    "interface called dot": ({"CNI_IFNAME": "."}, OK, 4, "CNI_IFNAME"),
    "interface called dot dot": ({"CNI_IFNAME": ".."}, OK, 4, "CNI_IFNAME"),
    "args without a value": ({"CNI_ARGS": "IgnoreUnknown"}, OK, 4, "CNI_ARGS"),
    "netns that is gone": ({"CNI_NETNS": "/run/netns/gone"}, OK, 4, "CNI_NETNS"),
    "netns that is a file": ({"CNI_NETNS": "/etc/passwd"}, OK, 4, "no network namespace"),
    "netns that is a directory": ({"CNI_NETNS": "/tmp"}, OK, 4, "no network namespace"),
    "netns of another kind": ({"CNI_NETNS": "/proc/self/ns/mnt"}, OK, 4, "no network namespace"),
    "netns of the host itself": ({"CNI_NETNS": "/proc/self/ns/net"}, OK, 8, "own"),
    "empty stdin": ({}, b"", 6, "empty"),
    "broken JSON": ({}, b'{"cniVersion":', 6, "JSON"),
    "JSON that is a list": ({}, b"[]", 6, "object"),
    "JSON that is null": ({}, b"null", 6, "object"),
    "no text at all": ({}, b"\x00\xff\xfe", 6, "JSON"),
    "a million brackets": ({}, b"[" * 1_000_000, 6, "nested"),
    "one megabyte of blanks": ({}, b" " * (1 << 20), 6, "empty"),
    "seventeen megabytes": ({}, b" " * (17 << 20), 6, "larger"),
    "version of the future": ({}, {**OK, "cniVersion": "2.0.0"}, 1, "2.0.0"),
    "version that is none": ({}, {**OK, "cniVersion": "newest"}, 1, "newest"),
    "version that is a number": ({}, {**OK, "cniVersion": 1.0}, 1, "1.0"),
    "no network name": ({}, {**OK, "name": None}, 7, "name"),
    "empty network name": ({}, {**OK, "name": ""}, 7, "name"),
    "network name with a slash": ({}, {**OK, "name": "a/b"}, 7, "a/b"),
    "network name that is a number": ({}, {**OK, "name": 7}, 7, "name"),
    "bridge name too long": ({}, {**OK, "bridge": "b" * 16}, 7, "bridge"),
    "bridge that is no text": ({}, {**OK, "bridge": 7}, 7, "bridge"),
    "mtu that is text": ({}, {**OK, "mtu": "1450"}, 7, "mtu"),
    "mtu of ten": ({}, {**OK, "mtu": 10}, 7, "mtu"),
    "mtu of a million": ({}, {**OK, "mtu": 1_000_000}, 7, "mtu"),
    "mtu too small for IPv6": ({}, {**OK, "mtu": 1200}, 7, "1280"),
    "hairpin that is text": ({}, {**OK, "hairpinMode": "yes"}, 7, "hairpinMode"),
    "hairpin and promiscuous": ({}, {**OK, "hairpinMode": True, "promiscMode": True}, 7, "hairpin"),
    "vlan of 5000": ({}, {**OK, "vlan": 5000}, 7, "vlan"),
    "vlan and trunk": ({}, {**OK, "vlan": 5, "vlanTrunk": [{"id": 7}]}, 7, "vlan"),
    "trunk backwards": ({}, {**OK, "vlanTrunk": [{"minID": 9, "maxID": 3}]}, 7, "vlanTrunk"),
    "mac that is none": ({"CNI_ARGS": "MAC=zz"}, OK, 7, "mac"),
    "mac of a group": ({"CNI_ARGS": "MAC=01:00:5e:00:00:01"}, OK, 7, "multicast"),
    "requested address outside": ({"CNI_ARGS": "IP=192.0.2.1"}, OK, 7, "192.0.2.1"),
    "requested gateway": ({"CNI_ARGS": "IP=10.5.72.1"}, OK, 7, "10.5.72.1"),
    "requested nonsense": ({"CNI_ARGS": "IP=10.5.72"}, OK, 7, "10.5.72"),
    "ips that is no list": ({}, {**OK, "runtimeConfig": {"ips": "10.5.72.9"}}, 7, "ips"),
    "ipam that is a list": ({}, {**OK, "ipam": []}, 7, "ipam"),
    "ipam of unknown type": ({}, {**OK, "ipam": {"type": "no-such"}}, 7, "no-such"),
    "ipam type with a slash": ({}, {**OK, "ipam": {"type": "../sh"}}, 7, "../sh"),
    "ipam type that is a number": ({}, {**OK, "ipam": {"type": 7}}, 7, "type"),
    "range without subnet": ({}, ranges([{"rangeStart": "10.1.0.5"}]), 7, "subnet"),
    "range with host bits": ({}, ranges([{"subnet": "10.1.0.5/24"}]), 7, "host bits"),
    "range too small": ({}, ranges([{"subnet": "10.1.0.0/31"}]), 7, "small"),
    "range start outside": (
        {},
        ranges([{"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}]),
        7,
        "rangeStart",
    ),
    "range backwards": (
        {},
        ranges([{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.3"}]),
        7,
        "rangeEnd",
    ),
    "ranges that overlap": (
        {},
        ranges([{"subnet": "10.1.0.0/16"}], [{"subnet": "10.1.2.0/24"}]),
        7,
        "overlap",
    ),
    "ranges of two families": (
        {},
        ranges([{"subnet": "10.1.0.0/24"}, {"subnet": "fd01::/64"}]),
        7,
        "IPv4 and IPv6",
    ),
    "two sets for an old version": (
        {},
        {
            **ranges([{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]),
            "cniVersion": "0.2.0",
        },
        7,
        "0.2.0",
    ),
    "subnetFile that is relative": ({}, {**OK, "subnetFile": "relative.env"}, 7, "subnetFile"),
    "subnetFile that is gone": ({}, {**OK, "subnetFile": "/nowhere.env"}, 50, "no lease"),
    "resolvConf that is gone": (
        {},
        ranges([{"subnet": "10.1.0.0/24"}], resolvConf="/nowhere/resolv.conf"),
        7,
        "resolvConf",
    ),
    "dns that is a list": ({}, {**OK, "dns": []}, 7, "dns"),
    "prevResult that is a list": ({}, {**OK, "prevResult": []}, 6, "prevResult"),
    "prevResult with a bad address": (
        {},
        {**OK, "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3"}]}},
        6,
        "prevResult",
    ),
    "prevResult of an unknown version": (
        {},
        {**OK, "prevResult": {"cniVersion": "7.0.0"}},
        1,
        "7.0.0",
    ),
}


@pytest.mark.parametrize("case", ADD_CASES)
def test_a_bad_add_is_refused_and_touches_nothing(host: CniHost, container: str, case: str) -> None:
    variables, conf, code, word = ADD_CASES[case]
    before = (host.ip("link", "show"), host.records())
    pod = host.pod()
    stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    answer = host.call("ADD", None, container, pod, stdin=stdin, environment=variables)
    message = answer.refused(code)
    assert word in message
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    assert (host.ip("link", "show"), host.records()) == before
    stated = conf.get("cniVersion") if isinstance(conf, dict) else None
    if isinstance(stated, str):
        assert answer.body["cniVersion"] == stated


def test_a_config_as_large_as_one_megabyte_is_read(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod = host.pod()
    large = conf(**{"x-comment": "x" * (1 << 20)})
    assert host.call("ADD", large, container, pod).result()["ips"]
    host.call("DEL", large, container, pod).result()


CHECK_CASES = {
    "no prevResult": (OK, 7, "prevResult"),
    "prevResult of another pod": ({**OK, "prevResult": PREV_1_0}, 103, "record"),
    "version without CHECK": ({**OK, "cniVersion": "0.3.1", "prevResult": PREV_1_0}, 1, "CHECK"),
}


@pytest.mark.parametrize("case", CHECK_CASES)
def test_a_bad_check_is_refused(host: CniHost, container: str, case: str) -> None:
    conf, code, word = CHECK_CASES[case]
    assert word in host.call("CHECK", conf, container, host.pod()).refused(code)


def test_check_of_a_pod_whose_netns_is_gone_is_refused(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    answer = host.call("CHECK", conf(prevResult=PREV_1_0), container, "/run/netns/gone")
    assert "CNI_NETNS" in answer.refused(4)


GC_CASES = {
    "no list": (NEW, {}, 7, "valid-attachments"),
    "list that is text": ({**NEW, "cni.dev/valid-attachments": "all"}, {}, 7, "valid-attachments"),
    "entry without interface": (
        {**NEW, "cni.dev/valid-attachments": [{"containerID": "a"}]},
        {},
        7,
        "valid-attachments",
    ),
    "no CNI_PATH": ({**NEW, "cni.dev/valid-attachments": []}, {"CNI_PATH": None}, 4, "CNI_PATH"),
    "version without GC": ({**OK, "cni.dev/valid-attachments": []}, {}, 1, "GC"),
}


@pytest.mark.parametrize("case", GC_CASES)
def test_a_bad_gc_is_refused_and_removes_nothing(host: CniHost, container: str, case: str) -> None:
    conf, variables, code, word = GC_CASES[case]
    pod = host.pod()
    host.call("ADD", OK, container, pod).result()
    answer = host.call(
        "GC",
        conf,
        environment={"CNI_CONTAINERID": None, "CNI_NETNS": None, "CNI_IFNAME": None, **variables},
    )
    assert word in answer.refused(code)
    assert ("pods", container, "eth0") in host.records()
    host.call("DEL", OK, container, pod).result()


DEL_CASES = {
    "no container id": ({"CNI_CONTAINERID": None}, OK, 4),
    "no interface name": ({"CNI_IFNAME": None}, OK, 4),
    "broken JSON": ({}, b"{", 6),
    "unknown version": ({}, {**OK, "cniVersion": "2.0.0"}, 1),
    "no network name": ({}, {**OK, "name": ""}, 7),
}


@pytest.mark.parametrize("case", DEL_CASES)
def test_a_bad_del_is_refused(host: CniHost, container: str, case: str) -> None:
    variables, conf, code = DEL_CASES[case]
    stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    host.call("DEL", None, container, "", stdin=stdin, environment=variables).refused(code)


@pytest.mark.parametrize("plugin", ["flatmesh", "flatmesh-ipam", "flannel"])
def test_every_plugin_refuses_nonsense_alike(host: CniHost, container: str, plugin: str) -> None:
    host.call("ADD", None, container, host.pod(), plugin=plugin, stdin=b"{").refused(6)
    host.call("FLY", None, container, host.pod(), plugin=plugin).refused(4)
    old = {**OK, "type": plugin, "cniVersion": "0.9.0"}
    host.call("ADD", old, container, host.pod(), plugin=plugin).refused(1)
