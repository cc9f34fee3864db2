# SPDX-License-Identifier: Apache-2.0
"""Which leases are believed, from their claims alone."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from ipam import lease as codec
from ipam.lease import Lease
from ipam.lease_claims import (
    ClaimRules,
    InUse,
    LeaseClaims,
    hidden_networks,
    network_conflicts,
    relevant,
)
from ipam.network import NetworkConfig, parse_config

CONFIG = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
DUAL = parse_config(
    '{"Network":"10.5.0.0/16","IPv6Network":"fd05::/48","EnableIPv6":true,'
    '"Backend":{"Type":"vxlan"}}'
)


def lease(key: str, ip: str, since: int = 1, mac: str | None = None, **more: Any) -> Lease:
    number = ip.rpartition(".")[2]
    data = {"VNI": 1, "VtepMAC": mac or f"02:00:00:00:00:{int(number):02x}"}
    value = {"PublicIP": ip, "BackendType": "vxlan", "BackendData": data, **more}
    return codec.parse(key, json.dumps(value), since=since)


def rules(config: NetworkConfig = CONFIG, own: Lease | None = None, *in_use: InUse) -> ClaimRules:
    return ClaimRules(config, own, in_use)


def served(claims: LeaseClaims, *leases: Lease, by: ClaimRules | None = None) -> set[str]:
    """Take all of them as changed, in one step."""
    found = {one.key: one for one in leases}
    keys = set(found) | set(claims.refused) | set(claims._served)
    return set(claims.take(found, keys, by or rules())[0])


A = lease("10.5.1.0-24", "192.168.64.1")
B = lease("10.5.2.0-24", "192.168.64.2", 2)


def test_good_leases_are_handed_on_as_they_are() -> None:
    claims = LeaseClaims()
    leases = {A.key: A, B.key: B}
    result, differs = claims.take(leases, leases, rules())
    assert result is leases
    assert differs == leases.keys()
    assert claims.take(leases, (), rules()) == (leases, frozenset())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lease("10.6.1.0-24", "192.168.64.9"), "network"),
        (lease("10.5.8.0-25", "192.168.64.9"), "length"),
        (lease("10.5.0.0-16", "192.168.64.9"), "length"),
        (lease("10.5.1.0-24&fd05:0:0:1::-64", "192.168.64.9"), "subnet"),
        (lease("10.5.9.0-24", "192.168.64.1", mac="02:00:00:00:00:99"), "PublicIP"),
        (lease("10.5.9.0-24", "10.5.3.3"), "PublicIP"),
        (lease("10.5.9.0-24", "224.0.0.1"), "PublicIP"),
        (lease("10.5.9.0-24", "127.0.0.1"), "PublicIP"),
        (lease("10.5.9.0-24", "255.255.255.255"), "PublicIP"),
        (lease("10.5.9.0-24", "0.1.2.3"), "PublicIP"),
        (lease("10.5.9.0-24", "192.168.64.9", PublicIPv6="ff02::1"), "PublicIP"),
        (lease("10.5.9.0-24", "192.168.64.9", mac="02:00:00:00:00:01"), "VtepMAC"),
        (lease("10.5.9.0-24", "192.168.64.9", mac="01:00:5e:00:00:01"), "VtepMAC"),
        (lease("10.5.9.0-24", "192.168.64.9", mac="ff:ff:ff:ff:ff:ff"), "VtepMAC"),
        (lease("10.5.9.0-24", "192.168.64.9", mac="00:00:00:00:00:00"), "VtepMAC"),
    ],
)
def test_what_is_refused(bad: Lease, reason: str) -> None:
    claims = LeaseClaims()
    late = codec.parse(bad.key, codec.format_value(bad.attributes), since=9)
    assert served(claims, A, B, late) == {A.key, B.key}
    assert claims.refused[bad.key].reason == reason
    assert "\n" not in claims.refused[bad.key].text


def test_a_part_that_this_host_uses_is_refused_and_given_back() -> None:
    route = InUse(ip_network("10.5.2.0/24"), "route 10.5.2.0/24 dev docker0")
    claims = LeaseClaims()
    assert served(claims, A, B, by=rules(CONFIG, None, route)) == {A.key}
    assert "route 10.5.2.0/24 dev docker0 here" in claims.refused[B.key].text
    result, differs = claims.take({A.key: A, B.key: B}, (), rules())
    assert set(result) == {A.key, B.key}
    assert differs == {B.key}
    of_flanneld = route._replace(via="192.168.64.2")
    assert served(LeaseClaims(), A, B, by=rules(CONFIG, None, of_flanneld)) == {A.key, B.key}


def test_the_first_one_keeps_working() -> None:
    claims = LeaseClaims()
    thief = lease("10.5.1.0-24&fd05:0:0:1::-64", "192.168.64.9", since=7)
    assert served(claims, thief, by=rules(DUAL)) == {thief.key}
    older = lease("10.5.1.0-24", "192.168.64.1", since=3)
    # served already: the older one comes late, as a lease that was written under another key
    assert served(claims, thief, older, by=rules(DUAL)) == {thief.key}
    # a daemon that starts sees both at once: then the older one is first
    assert served(LeaseClaims(), thief, older, by=rules(DUAL)) == {older.key}
    # and what was refused is served when the first one goes
    assert served(claims, older, by=rules(DUAL)) == {older.key}


def test_this_hosts_own_lease_comes_first() -> None:
    own = lease("10.5.1.0-24", "192.168.64.1", since=9)
    thief = lease("10.5.7.0-24", "192.168.64.7", mac="02:00:00:00:00:01")
    claims = LeaseClaims()
    assert served(claims, own, thief, by=rules(CONFIG, own)) == {own.key}
    assert claims.refused[thief.key].reason == "VtepMAC"


def test_a_changed_network_does_not_cut_off_who_was_served() -> None:
    claims = LeaseClaims()
    assert served(claims, A, B) == {A.key, B.key}
    moved = parse_config('{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}')
    assert set(claims.take({A.key: A, B.key: B}, (), rules(moved))[0]) == {A.key, B.key}


def test_a_value_from_outside_is_cut() -> None:
    long = lease("10.5.9.0-24", "192.168.64.9")
    data = {"PublicKey": "A" * 5000}
    value = {"PublicIP": "192.168.64.9", "BackendType": "wireguard", "BackendData": data}
    one, two = (
        codec.parse(f"10.5.{n}.0-24", json.dumps({**value, "PublicIP": f"192.168.64.{n}"}))
        for n in (8, 9)
    )
    claims = LeaseClaims()
    served(claims, one, two, long)
    assert all(len(refusal.text) < 500 for refusal in claims.refused.values())


def test_only_what_lies_in_the_network_counts() -> None:
    def one(text: str) -> InUse:
        return InUse(ip_network(text), text)

    inside = (one("10.5.0.0/16"), one("10.5.200.0/24"), one("10.5.7.7/32"))
    outside = (one("10.0.0.0/8"), one("172.17.0.0/16"), one("fd05::/64"))
    assert relevant(CONFIG, (*inside, *outside)) == inside
    assert network_conflicts(CONFIG, outside) == []
    assert len(network_conflicts(CONFIG, inside)) == 3


def test_what_this_host_claims_is_its_own_after_its_lease_was_written_again() -> None:
    own = lease("10.5.1.0-24", "192.168.64.1", since=9)
    thief = lease("10.5.7.0-24", "192.168.64.7", mac="02:00:00:00:00:01")
    claims, by = LeaseClaims(), rules(CONFIG, own)
    assert served(claims, own, by=by) == {own.key}
    assert served(claims, own, by=by) == {own.key}  # told as changed: renewed, for instance
    assert served(claims, own, thief, by=by) == {own.key}
    assert claims.refused[thief.key].reason == "VtepMAC"


def wireguard(key: str, ip: str, since: int, public: str) -> Lease:
    value = {"PublicIP": ip, "BackendType": "wireguard", "BackendData": {"PublicKey": public}}
    return codec.parse(key, json.dumps(value), since=since)


def test_a_wireguard_key_is_its_bytes_however_they_are_written() -> None:
    first = wireguard("10.5.1.0-24", "192.168.64.1", 1, "A" * 42 + "E=")
    claims = LeaseClaims()
    for number, text in enumerate(["A" * 42 + "E=", "A" * 42 + "F="], 2):
        second = wireguard(f"10.5.{number}.0-24", f"192.168.64.{number}", number, text)
        assert served(claims, first, second) == {first.key}
        assert claims.refused[second.key].reason == "WireGuard key"
    odd = wireguard("10.5.7.0-24", "192.168.64.7", 7, "no\nkey")
    assert served(claims, first, odd) == {first.key, odd.key}  # its backend can't use it


def test_leases_that_wait_for_something_else_are_not_judged_again() -> None:
    own = lease("10.5.9.0-24", "192.168.64.9", 1)
    claims, by = LeaseClaims(), rules(CONFIG, own)
    waiting = [
        lease(f"10.5.{number}.0-24", "192.168.64.9", number + 10, f"02:00:00:00:01:{number:02x}")
        for number in range(20, 40)
    ]
    rival = lease("10.5.3.0-24", "192.168.64.1", 3)
    leases = {one.key: one for one in [own, A, rival, *waiting]}
    claims.take(leases, leases, by)
    assert set(claims.refused) == {rival.key, *(one.key for one in waiting)}
    before = dict(claims.refused)
    del leases[A.key]
    result, differs = claims.take(leases, {A.key}, by)
    assert differs == {A.key, rival.key}
    assert rival.key in result
    assert all(claims.refused[one.key] is before[one.key] for one in waiting)


def test_a_route_that_came_after_the_lease_is_the_intruder() -> None:
    claims = LeaseClaims()
    assert served(claims, A, B) == {A.key, B.key}
    leases = {A.key: A, B.key: B}
    route = InUse(ip_network("10.5.2.0/24"), "route 10.5.2.0/24 via 192.168.64.77", is_route=True)
    assert set(claims.take(leases, (), rules(CONFIG, None, route))[0]) == {A.key, B.key}
    part = route._replace(network=ip_network("10.5.2.0/25"))
    assert set(claims.take(leases, (), rules(CONFIG, None, part))[0]) == {A.key}
    assert served(LeaseClaims(), A, B, by=rules(CONFIG, None, route)) == {A.key}
    address = InUse(ip_network("10.5.2.1/32"), "address 10.5.2.1 of docker0")
    assert set(claims.take(leases, (), rules(CONFIG, None, address))[0]) == {A.key}


def test_a_network_inside_a_wider_one_is_told_and_not_refused() -> None:
    wide = [InUse(ip_network("10.0.0.0/8"), "the underlay 10.0.0.0/8 of eth0")]
    assert network_conflicts(CONFIG, wide) == []
    (line,) = hidden_networks(CONFIG, wide)
    assert line.startswith("the cluster's network 10.5.0.0/16 lies inside the underlay 10.0.0.0/8")
    assert hidden_networks(CONFIG, [InUse(ip_network("192.168.64.0/24"), "x")]) == []
