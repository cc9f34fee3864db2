# SPDX-License-Identifier: Apache-2.0
"""Result shapes of every version, and reading them back."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import cidr, versions
from cni.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, CniError
from cni.result.model import CniResult, Dns, ResultAddress, ResultInterface, ResultRoute
from cni.result.read import read_result
from cni.result.render import render_result

DUAL = CniResult(
    (
        ResultInterface("kbr0", "0a:58:0a:05:01:01", mtu=1450),
        ResultInterface("veth1", "0a:59:0a:05:01:02", mtu=1450),
        ResultInterface("eth0", "0a:58:0a:05:01:02", "/run/netns/x", 1450),
    ),
    (ResultAddress("10.5.1.2/24", "10.5.1.1", 2), ResultAddress("fd00:1::2/64", "fd00:1::1", 2)),
    (
        ResultRoute("10.5.0.0/16", "10.5.1.1", mtu=1400, priority=7, table=100, scope=0),
        ResultRoute("::/0", "fd00:1::1"),
    ),
    Dns(("10.5.0.10",), "cluster.local", ("svc",), ("ndots:5",)),
)


def test_0_2_0_has_an_address_per_family_with_its_routes() -> None:
    assert render_result(DUAL, "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.5.1.2/24",
            "gateway": "10.5.1.1",
            "routes": [{"dst": "10.5.0.0/16", "gw": "10.5.1.1"}],
        },
        "ip6": {
            "ip": "fd00:1::2/64",
            "gateway": "fd00:1::1",
            "routes": [{"dst": "::/0", "gw": "fd00:1::1"}],
        },
        "dns": {
            "nameservers": ["10.5.0.10"],
            "domain": "cluster.local",
            "search": ["svc"],
            "options": ["ndots:5"],
        },
    }


def test_0_4_0_says_the_family_and_1_0_0_does_not() -> None:
    assert render_result(DUAL, "0.4.0")["ips"][0] == {
        "version": "4",
        "interface": 2,
        "address": "10.5.1.2/24",
        "gateway": "10.5.1.1",
    }
    assert "version" not in render_result(DUAL, "1.0.0")["ips"][0]


def test_keys_of_1_1_0_are_left_out_of_older_versions() -> None:
    old, new = render_result(DUAL, "1.0.0"), render_result(DUAL, "1.1.0")
    assert old["interfaces"][2] == {
        "name": "eth0",
        "mac": "0a:58:0a:05:01:02",
        "sandbox": "/run/netns/x",
    }
    assert new["interfaces"][2]["mtu"] == 1450
    assert old["routes"][0] == {"dst": "10.5.0.0/16", "gw": "10.5.1.1"}
    assert new["routes"][0] == {
        "dst": "10.5.0.0/16",
        "gw": "10.5.1.1",
        "mtu": 1400,
        "priority": 7,
        "table": 100,
        "scope": 0,
    }


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_every_version_is_read_back(version: str) -> None:
    body = json.loads(json.dumps(render_result(DUAL, version)))
    again = read_result(body)
    assert [ip.address for ip in again.ips] == [ip.address for ip in DUAL.ips]
    assert [r.destination for r in again.routes] == [r.destination for r in DUAL.routes]
    assert again.dns == DUAL.dns
    assert render_result(again, version) == body


def test_1_1_0_loses_nothing() -> None:
    assert read_result(render_result(DUAL, "1.1.0")) == DUAL


def test_an_ipam_result_has_no_interfaces() -> None:
    result = CniResult((), (ResultAddress("10.5.1.2/24", "10.5.1.1"),))
    body = render_result(result, "1.0.0")
    assert "interfaces" not in body
    assert "interface" not in body["ips"][0]


def test_a_later_result_is_put_behind_the_earlier_one() -> None:
    first = CniResult(
        (ResultInterface("lo0"),), (ResultAddress("192.0.2.1/24", "", 0),), (), Dns(("192.0.2.53",))
    )
    both = DUAL.after(first)
    assert [i.name for i in both.interfaces] == ["lo0", "kbr0", "veth1", "eth0"]
    assert [ip.interface for ip in both.ips] == [0, 3, 3]
    assert both.dns == DUAL.dns
    assert CniResult().after(first).dns == first.dns


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {"ips": {}},
        {"ips": [7]},
        {"ips": [{"address": "10.1.2.3"}]},
        {"ips": [{"address": "10.1.2.3/33"}]},
        {"ips": [{"address": "10.1.2.3/24", "gateway": "x"}]},
        {"ips": [{"address": "10.1.2.3/24", "interface": 0}]},
        {"ips": [{"address": "10.1.2.3/24", "interface": "0"}], "interfaces": [{"name": "a"}]},
        {"interfaces": [{"name": 7}]},
        {"routes": [{"dst": "10.0.0.0"}]},
        {"routes": [{"dst": "10.0.0.0/8", "mtu": "big"}]},
        {"ip4": {"ip": "fd00::1/64"}},
        {"ip4": []},
        {"dns": []},
        {"dns": {"nameservers": "10.0.0.1"}},
    ],
)
def test_a_broken_result_is_code_6(raw: Any) -> None:
    with pytest.raises(CniError) as caught:
        read_result(raw)
    assert caught.value.code == DECODING_FAILURE
    assert "\n" not in caught.value.message


def test_a_result_of_an_unknown_version_is_code_1() -> None:
    with pytest.raises(CniError) as caught:
        read_result({"cniVersion": "3.0.0"})
    assert caught.value.code == INCOMPATIBLE_VERSION


@given(st.ip_addresses(), st.data())
def test_cidr_agrees_with_the_standard_library(
    address: IPv4Address | IPv6Address, data: st.DataObject
) -> None:
    import ipaddress

    bits = 32 if address.version == 4 else 128
    length = data.draw(st.integers(0, bits))
    theirs = ipaddress.ip_interface(f"{address}/{length}")
    ours = cidr.parse_cidr(str(theirs))
    assert ipaddress.ip_network(str(ours.network)) == theirs.network
    assert ours.last == int(theirs.network.broadcast_address)
    assert ours.network.contains(ours)


@pytest.mark.parametrize("text", ["", "10.1.2.3", "10.1.2/24", "10.1.2.3/-1", "10.1.2.3/٣", "a/8"])
def test_bad_cidrs_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"PREFIXLEN|prefix length"):
        cidr.parse_cidr(text)
