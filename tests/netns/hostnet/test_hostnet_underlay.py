# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from hostnet.underlay_detect import UnderlayError, detect_underlay


def ip(netns: str, command: str) -> None:
    subprocess.run(["ip", "-n", netns, *command.split()], check=True)


def test_default_route_tells_the_device(host: str) -> None:
    found = detect_underlay(netns=host, need_v6=True)
    assert found.link == "eth0"
    assert found.mtu == 1500
    assert found.public_ip == IPv4Address("192.168.64.2")
    assert found.public_ipv6 == IPv6Address("fd00:1::2")
    assert set(found.addresses) == {ip_interface("192.168.64.2/24"), ip_interface("fd00:1::2/64")}
    assert found.on_link(IPv4Address("192.168.64.200"))


def test_the_default_route_of_the_lowest_metric_wins(host: str) -> None:
    ip(host, "addr add 172.16.0.2/24 dev eth1")
    ip(host, "route del default")
    ip(host, "route add default via 192.168.64.1 metric 200")
    ip(host, "route add default via 172.16.0.1 metric 100")
    assert detect_underlay(netns=host).link == "eth1"


def test_ipv6_only_host(host: str) -> None:
    ip(host, "addr del 192.168.64.2/24 dev eth0")
    found = detect_underlay(netns=host, need_v4=False, need_v6=True)
    assert (found.link, found.public_ip) == ("eth0", None)
    assert found.public_ipv6 == IPv6Address("fd00:1::2")


@pytest.mark.parametrize("asked", ["eth1", "172.16.0.2", "eth[1-9]", r"172\.16\.", "fd00:7::1"])
def test_device_is_found_by_name_address_or_expression(host: str, asked: str) -> None:
    ip(host, "addr add 172.16.0.2/24 dev eth1")
    ip(host, "addr add fd00:7::1/64 dev eth1 nodad")
    assert detect_underlay(asked, netns=host).link == "eth1"


def test_public_ip_of_a_device_tells_the_device(host: str) -> None:
    ip(host, "addr add 172.16.0.2/24 dev eth1")
    found = detect_underlay(netns=host, public_ip=IPv4Address("172.16.0.2"))
    assert (found.link, found.public_ip) == ("eth1", IPv4Address("172.16.0.2"))


def test_public_ip_behind_nat_is_published_but_not_used_as_source(host: str) -> None:
    found = detect_underlay(netns=host, public_ip=IPv4Address("203.0.113.9"))
    assert (found.link, found.public_ip) == ("eth0", IPv4Address("203.0.113.9"))
    assert found.local(4) == IPv4Address("192.168.64.2")


def test_a_secondary_address_is_not_preferred(host: str) -> None:
    ip(host, "addr del 192.168.64.2/24 dev eth0")
    ip(host, "addr add 192.168.64.9/24 dev eth0")
    ip(host, "addr add 192.168.64.2/24 dev eth0")
    ip(host, "route add default via 192.168.64.1")
    assert detect_underlay(netns=host).public_ip == IPv4Address("192.168.64.9")


@pytest.mark.parametrize(
    ("prepare", "asked", "message"),
    [
        ("route del default", None, "no default IPv4 route tells which device is the underlay"),
        ("link show", "eth7", "--iface 'eth7' matches no device or address here.*eth0, eth1"),
        ("link show", "eth(", "no regular expression"),
        ("link show", "eth1", "device eth1 has no global IPv4 address"),
    ],
)
def test_a_host_without_a_usable_underlay_gets_an_error_of_one_line(
    host: str, prepare: str, asked: str | None, message: str
) -> None:
    ip(host, prepare)
    with pytest.raises(UnderlayError, match=message) as refused:
        detect_underlay(asked, netns=host)
    assert "\n" not in str(refused.value)
