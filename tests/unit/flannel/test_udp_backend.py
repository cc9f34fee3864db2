# SPDX-License-Identifier: Apache-2.0
"""What the udp backend wants on a host, against FACTS: names, numbers, addresses."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from flannel.udp import backend as module
from flannel.udp.backend import UdpBackend
from flannel.udp.data_plane import UdpDataPlane
from hostnet.kinds.link import Link
from hostnet.kinds.links.tun import Tun
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ipam import lease
from ipam.lease import PeerUnusableError
from ipam.network import ConfigError, parse_config

UNDERLAY = Underlay(
    "eth0",
    1500,
    IPv4Address("192.168.64.2"),
    IPv6Address("fd00:1::2"),
    (ip_interface("192.168.64.2/24"), ip_interface("fd00:1::2/64")),
)
OWN = lease.parse("10.5.1.0-24&fd05:0:0:1::-64", '{"PublicIP":"192.168.64.2","PublicIPv6":null}')
PEER = lease.parse("10.5.76.0-24", '{"PublicIP":"192.168.64.3","PublicIPv6":null}')


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the C part is there; one test is about its absence."""
    monkeypatch.setattr(module, "find_spec", lambda _: object())


def udp(*, ipv6: bool = False, **keys: Any) -> UdpBackend:
    document: dict[str, Any] = {"Network": "10.5.0.0/16", "Backend": {"Type": "udp", **keys}}
    if ipv6:
        document |= {"EnableIPv6": True, "IPv6Network": "fd05::/48"}
    return UdpBackend.from_config(parse_config(json.dumps(document)), Path("/x"), Path("/x"))


def test_lease_is_flannelds_byte_for_byte() -> None:
    attributes = udp().attributes(UNDERLAY, None)
    assert lease.format_value(attributes) == '{"PublicIP":"192.168.64.2","PublicIPv6":null}'


def test_ipv6_address_is_published_where_peers_may_need_it() -> None:
    only_ipv6 = Underlay("eth0", 1500, None, IPv6Address("fd00:1::2"))
    assert udp(ipv6=True).attributes(UNDERLAY, None).public_ipv6 == IPv6Address("fd00:1::2")
    assert udp().attributes(only_ipv6, None).public_ipv6 == IPv6Address("fd00:1::2")


def test_device_addresses_and_routes_are_flannels() -> None:
    assert udp().base(OWN, UNDERLAY) == HostState(
        links=frozenset([Link("flannel0", "tun", mtu=1472, addrgenmode="none", details=Tun())]),
        addresses=frozenset([Address("flannel0", "10.5.1.0/32")]),
        routes=frozenset([Route("10.5.0.0/16", "flannel0", scope=253)]),
    )


def test_device_for_single_packets_has_one_queue() -> None:
    (link,) = udp(SinglePacket=True).base(OWN, UNDERLAY).of(Link)
    assert link.details == Tun(multi_queue=False)


def test_dual_stack_has_both_on_one_device() -> None:
    base = udp(ipv6=True).base(OWN, UNDERLAY)
    assert base.of(Address) == {
        Address("flannel0", "10.5.1.0/32"),
        Address("flannel0", "fd05:0:0:1::/128"),
    }
    assert Route("fd05::/48", "flannel0") in base.of(Route)


def test_mtu_leaves_room_for_the_outer_headers() -> None:
    only_ipv6 = Underlay("eth0", 1500, None, IPv6Address("fd00:1::2"))
    assert udp().mtu(UNDERLAY) == 1472
    assert udp().mtu(only_ipv6) == 1452
    assert udp(MTU=9000).mtu(UNDERLAY) == 8972


def test_peers_need_nothing_in_the_kernel() -> None:
    assert udp().peer(PEER, OWN, UNDERLAY) == HostState()
    vxlan = lease.parse("10.5.9.0-24", '{"PublicIP":"192.168.64.9","BackendType":"vxlan"}')
    with pytest.raises(
        PeerUnusableError, match=r"lease 10.5.9.0-24: backend is vxlan, ours is udp"
    ):
        udp().peer(vxlan, OWN, UNDERLAY)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"Port": 70000}, "Backend.Port is 70000; it must be from 0 to 65535"),
        ({"Port": "8285"}, 'Backend.Port is "8285"; it must be a whole number'),
        ({"Queues": 65}, "Backend.Queues is 65; it must be from 0 to 64"),
    ],
)
def test_bad_keys_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        udp(**keys)


def test_without_the_c_part_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"apt install gcc libc6-dev python3-dev"):
        udp()


def test_single_packets_are_for_one_queue() -> None:
    plane = udp(SinglePacket=True).data_plane()
    assert isinstance(plane, UdpDataPlane)
    settings = plane.settings(UNDERLAY)
    assert (settings.single, settings.queues) == (True, 1)
