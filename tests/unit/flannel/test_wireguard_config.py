# SPDX-License-Identifier: Apache-2.0
"""The wireguard backend's options, leases and host state: flannel's names and numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from flannel.wireguard.backend import WireguardBackend
from flannel.wireguard.config import WireguardConfig, tunnels
from flannel.wireguard.key import KeyFile
from flannel.wireguard.plan import wanted_devices
from hostnet.kinds.link import Link
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.underlay import Underlay
from hostnet.wireguard.state import Endpoint, key_text
from ipam import lease
from ipam.lease import Lease, PeerUnusableError
from ipam.network import ConfigError, parse_config

A, B, C = (key_text(bytes([n]) * 32) for n in (1, 2, 3))
UNDERLAY = Underlay(
    "eth0",
    1500,
    IPv4Address("192.168.64.2"),
    IPv6Address("fd00:1::2"),
    (ip_interface("192.168.64.2/24"), ip_interface("fd00:1::2/64")),
)


def config(*, ipv4: bool = True, ipv6: bool = False, **keys: Any) -> WireguardConfig:
    document: dict[str, Any] = {"Backend": {"Type": "wireguard", **keys}, "EnableIPv4": ipv4}
    document |= {"Network": "10.5.0.0/16", "EnableIPv6": ipv6, "IPv6Network": "fd05::/48"}
    return WireguardConfig.of(parse_config(json.dumps(document)))


def a_lease(number: int, key: str | None = B, **more: Any) -> Lease:
    data = {"PublicKey": key} | ({"Port": more.pop("port")} if "port" in more else {})
    value: dict[str, Any] = {
        "PublicIP": f"192.168.64.{number}",
        "PublicIPv6": f"fd00:1::{number}",
        "BackendType": "wireguard",
        "BackendData": data,
        "BackendV6Data": data,
    }
    return lease.parse(f"10.5.{number}.0-24&fd05:0:0:{number}::-64", json.dumps({**value, **more}))


OWN = a_lease(2, A)


def backend(tmp_path: Path, **keys: Any) -> WireguardBackend:
    return WireguardBackend(config(**keys), tmp_path / "var", tmp_path / "run", in_kernel=True)


def test_defaults_are_flannels() -> None:
    found = config(ipv6=True)
    assert found.ports == {"flannel-wg": 51820, "flannel-wg-v6": 51821}
    assert (found.psk, found.keepalive, found.mode) == (None, 0, "separate")
    assert found.mtu(UNDERLAY) == 1420
    assert config(MTU=9000).mtu(UNDERLAY) == 8920


def test_options_match_without_regard_to_case() -> None:
    found = config(listenport=1234, psk=C, persistentKeepaliveInterval=25, MODE="Auto", ipv6=True)
    assert found.ports == {"flannel-wg": 1234}
    assert (found.psk, found.keepalive, found.mode) == (C, 25, "auto")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"Mode": "tunnel"}, "Mode is 'tunnel'; it must be one of separate, auto, ipv4, ipv6"),
        ({"PSK": "secret"}, "PSK is no WireGuard key.*wg genpsk"),
        ({"PSK": 7}, "PSK is 7; it must be a string"),
        ({"ListenPort": 0}, "ListenPort is 0; it must be from 1 to 65535"),
        ({"ListenPortV6": 70000}, "ListenPortV6 is 70000"),
        ({"PersistentKeepaliveInterval": -1}, "PersistentKeepaliveInterval is -1"),
        ({"ListenPortV6": 51820, "ipv6": True}, "are both 51820"),
    ],
)
def test_a_bad_option_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**keys)


def test_a_bad_psk_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        config(PSK="almost-a-secret")
    assert "almost" not in str(refused.value)


def test_the_lease_says_key_and_port(tmp_path: Path) -> None:
    made = backend(tmp_path, ipv6=True)
    found = made.attributes(UNDERLAY, None)
    key = KeyFile(tmp_path / "var").read()
    assert key is not None
    assert lease.format_value(found) == (
        '{"PublicIP":"192.168.64.2","PublicIPv6":"fd00:1::2","BackendType":"wireguard",'
        f'"BackendData":{{"PublicKey":"{key.public}","Port":51820}},'
        f'"BackendV6Data":{{"PublicKey":"{key.public}","Port":51821}}}}'
    )
    assert made.attributes(UNDERLAY, found) == found


def test_mode_decides_whether_the_ipv6_address_is_published(tmp_path: Path) -> None:
    assert backend(tmp_path).attributes(UNDERLAY, None).public_ipv6 is None
    over6 = backend(tmp_path, Mode="ipv6")
    assert over6.attributes(UNDERLAY, None).public_ipv6 == IPv6Address("fd00:1::2")
    with pytest.raises(ConfigError, match="Mode is ipv6, but eth0 has no IPv6 address"):
        over6.attributes(replace(UNDERLAY, public_ipv6=None), None)


def test_devices_addresses_and_the_whole_network_through_them(tmp_path: Path) -> None:
    own = replace(OWN)
    assert backend(tmp_path, ipv6=True).base(own, UNDERLAY) == HostState(
        links=frozenset(
            Link(name, "wireguard", mtu=1420, addrgenmode="none")
            for name in ("flannel-wg", "flannel-wg-v6")
        ),
        addresses=frozenset(
            [
                Address("flannel-wg", "10.5.2.0/32"),
                Address("flannel-wg-v6", "fd05:0:0:2::/128"),
            ]
        ),
        routes=frozenset(
            [
                Route("10.5.0.0/16", "flannel-wg", scope=253),
                Route("fd05::/48", "flannel-wg-v6"),
            ]
        ),
    )


def test_one_device_for_both_families(tmp_path: Path) -> None:
    made = backend(tmp_path, ipv6=True, Mode="auto")
    assert {link.name for link in made.base(OWN, UNDERLAY).of(Link)} == {"flannel-wg"}
    assert made.peer(a_lease(3), OWN, UNDERLAY) == HostState(
        routes=frozenset(
            [
                Route("10.5.3.0/24", "flannel-wg", scope=253),
                Route("fd05:0:0:3::/64", "flannel-wg"),
            ]
        )
    )


def test_flannelds_lease_has_no_port_ours_may_have_another() -> None:
    def ports(peer: Lease) -> list[int]:
        return [t.endpoint.port for t in tunnels(config(ipv6=True), peer, OWN, UNDERLAY)]

    assert ports(a_lease(3)) == [51820, 51821]
    assert ports(a_lease(3, port=7777)) == [7777, 7777]
    assert ports(a_lease(3, port="7777")) == [51820, 51821]
    assert ports(a_lease(3, port=0)) == [51820, 51821]


@pytest.mark.parametrize(
    ("mode", "theirs", "endpoints"),
    [
        ("separate", {}, ["192.168.64.3:51820", "[fd00:1::3]:51821"]),
        ("ipv4", {}, ["192.168.64.3:51820"]),
        ("ipv6", {}, ["[fd00:1::3]:51820"]),
        ("auto", {}, ["192.168.64.3:51820"]),
        ("auto", {"PublicIP": "0.0.0.0"}, ["[fd00:1::3]:51820"]),
        ("auto", {"PublicIPv6": None}, ["192.168.64.3:51820"]),
    ],
)
def test_mode_decides_which_underlay_is_used(
    mode: str, theirs: dict[str, Any], endpoints: list[str]
) -> None:
    found = tunnels(config(ipv6=True, Mode=mode), a_lease(3, **theirs), OWN, UNDERLAY)
    assert [str(tunnel.endpoint) for tunnel in found] == endpoints


@pytest.mark.parametrize(
    ("ours", "theirs", "endpoint"),
    [
        (
            "2a00::2",
            "2a00::3",
            "[2a00::3]:51820",
        ),  # private IPv4, public IPv6: the latter is reachable
        ("fd00:1::2", "2a00::3", "192.168.64.3:51820"),
        ("2a00::2", "fd00:1::3", "192.168.64.3:51820"),
    ],
)
def test_auto_takes_ipv6_where_only_that_is_public(ours: str, theirs: str, endpoint: str) -> None:
    underlay = replace(
        UNDERLAY,
        public_ipv6=IPv6Address(ours),
        addresses=(UNDERLAY.addresses[0], ip_interface(f"{ours}/64")),
    )
    peer = a_lease(3, PublicIPv6=theirs)
    found = tunnels(config(ipv6=True, Mode="auto"), peer, OWN, underlay)
    assert [str(tunnel.endpoint) for tunnel in found] == [endpoint]


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (a_lease(3, BackendType="vxlan"), "backend is vxlan, ours is wireguard"),
        (a_lease(3, None), "no WireGuard PublicKey for IPv4"),
        (a_lease(3, "AAAA"), "no WireGuard PublicKey for IPv4"),
        (a_lease(3, BackendData=None), "no WireGuard PublicKey for IPv4"),
        (a_lease(3, BackendV6Data=[1]), "no WireGuard PublicKey for IPv6"),
        (a_lease(3, A), "same WireGuard key as this one.*delete wireguard.key"),
        (a_lease(3, PublicIPv6=None), "no PublicIP that Mode separate can use"),
    ],
)
def test_a_lease_that_lacks_something_says_what(peer: Lease, message: str) -> None:
    with pytest.raises(PeerUnusableError, match=message):
        tunnels(config(ipv6=True), peer, OWN, UNDERLAY)


def test_a_peer_of_one_family_is_reached_by_that_family() -> None:
    text = '{"PublicIP":"192.168.64.3","BackendType":"wireguard","BackendData":{"PublicKey":"%s"}}'
    peer = lease.parse("10.5.3.0-24", text % B)
    found = tunnels(config(ipv6=True), peer, OWN, UNDERLAY)
    assert [tunnel.device for tunnel in found] == ["flannel-wg"]


def test_wanted_peers_follow_from_leases() -> None:
    found = wanted_devices(
        config(ipv6=True, PSK=C, PersistentKeepaliveInterval=25),
        "private",
        OWN,
        [a_lease(3, B)],
        UNDERLAY,
    )
    assert found.problems == []
    peer = found.devices["flannel-wg-v6"].peers[B]
    assert peer.endpoint == Endpoint("fd00:1::3", 51821)
    assert peer.allowed_ips == {"fd05:0:0:3::/64"}
    assert (peer.keepalive, peer.preshared_key) == (25, C)


def test_of_two_hosts_with_one_key_the_first_has_it() -> None:
    found = wanted_devices(config(), None, OWN, [a_lease(4, B), a_lease(3, B)], UNDERLAY)
    assert found.devices["flannel-wg"].peers[B].allowed_ips == {"10.5.3.0/24"}
    assert len(found.problems) == 1
    assert "lease 10.5.4.0-24&fd05:0:0:4::-64: its host has the same" in found.problems[0]
