# SPDX-License-Identifier: Apache-2.0
"""Keys and values, byte for byte as flanneld writes them."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd.client import Etcd, KeyValue
from ipam import lease
from ipam.etcd_origin import EtcdOrigin, origin_of
from ipam.lease import Lease, LeaseAttributes, LeaseError
from ipam.registry import Registry

# what flanneld matches keys with (pkg/subnet/subnet.go)
FLANNELD_KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$")

FLANNELDS = [
    (
        "10.5.76.0-24",
        (
            '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}'
        ),
    ),
    (
        "10.5.64.0-24&fc00:0:0:3::-64",
        (
            '{"PublicIP":"192.168.64.3","PublicIPv6":"fd00:1::3","BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},'
            '"BackendV6Data":{"VNI":1,"VtepMAC":"d2:3a:1c:00:00:01"}}'
        ),
    ),
    ("10.5.76.0-24", '{"PublicIP":"192.168.64.3","PublicIPv6":null}'),
    (
        "10.5.76.0-24",
        '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}',
    ),
    (
        "10.5.76.0-24",
        (
            '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"wireguard",'
            '"BackendData":{"PublicKey":"q83vEjRWeJA=","Port":51820}}'
        ),
    ),
]


@pytest.mark.parametrize(("key", "value"), FLANNELDS)
def test_flannelds_leases_come_back_byte_for_byte(key: str, value: str) -> None:
    found = lease.parse(key, value.encode(), origin=EtcdOrigin(7, 9))
    assert found.key == key
    assert lease.format_value(found.attributes) == value
    assert not found.reserved
    assert (origin_of(found).revision, origin_of(found).etcd_lease) == (7, 9)


def test_a_dual_stack_key_is_one_that_flanneld_reads() -> None:
    key = lease.format_key(IPv4Network("10.5.64.0/24"), IPv6Network("fc00:0:0:3::/64"))
    match = FLANNELD_KEY.search(key)
    assert match
    assert match.groups() == ("10.5.64.0", "24", "fc00:0:0:3::", "64")


def test_ipv6_alone_has_a_key_that_flanneld_passes_over() -> None:
    key = lease.format_key(None, IPv6Network("fc00:0:0:3::/64"))
    assert key == "fc00:0:0:3::-64"
    assert lease.parse_key(key) == (None, IPv6Network("fc00:0:0:3::/64"))
    assert not FLANNELD_KEY.search(key)


def test_a_key_without_an_etcd_lease_is_a_reservation() -> None:
    registry = Registry(Etcd(["http://127.0.0.1:2379"]))
    key, value = FLANNELDS[0]
    for attached in (0, 9):
        kv = KeyValue(registry.subnets + key, value.encode(), 7, attached)
        assert registry.decode(kv).reserved == (attached == 0)


def test_ipv6_alone_writes_an_unspecified_ipv4_address_and_reads_it_as_none() -> None:
    text = lease.format_value(LeaseAttributes(None, IPv6Address("fd00:1::3"), "host-gw"))
    assert text == '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:1::3","BackendType":"host-gw"}'
    assert lease.parse_value(text).public_ip is None


def test_names_match_without_regard_to_case() -> None:
    found = lease.parse_value('{"publicip":"192.168.64.3","BACKENDTYPE":"vxlan","more":1}')
    assert found == LeaseAttributes(IPv4Address("192.168.64.3"), None, "vxlan")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "hello",
        "10.5.76.0",
        "10.5.76.0-33",
        "10.5.76.1-24",
        "10.5.300.0-24",
        "&fc00::-64",
        "10.5.64.0-24&",
        "10.5.64.0-24fc00::-64",
        "10.5.64.0-24&fc00::1-64",
        "10.5.64.0-24&fc00::-129",
        "10.5.64.0-24/x",
        "FC00::-64",
        "\u0661\u0660.5.64.0-24",
        "10.5.64.0-24\n",
    ],
)
def test_foreign_keys_are_refused(key: str) -> None:
    with pytest.raises(LeaseError):
        lease.parse_key(key)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        b"\xff",
        "[" * 100_000,
        "[]",
        "{}",
        '{"PublicIP":"0.0.0.0"}',
        '{"PublicIP":"x"}',
        '{"PublicIP":5}',
        '{"PublicIP":true}',
        '{"PublicIP":["1.2.3.4"]}',
        '{"PublicIPv6":7}',
        '{"PublicIP":"1.2.3.4","BackendType":5}',
    ],
)
def test_broken_values_are_refused_in_one_line(value: str | bytes) -> None:
    with pytest.raises(LeaseError) as refusal:
        lease.parse_value(value)
    assert "\n" not in str(refusal.value)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(8, 30),
    st.none() | st.integers(0, 2**128 - 1),
    st.integers(16, 126),
)
def test_any_subnets_survive_the_key(v4: int, len4: int, v6: int | None, len6: int) -> None:
    subnet = IPv4Network((v4, len4), strict=False)
    ipv6 = IPv6Network((v6.to_bytes(16, "big"), len6), strict=False) if v6 is not None else None
    key = Lease(subnet, ipv6).key
    assert lease.parse_key(key) == (subnet, ipv6)
    assert FLANNELD_KEY.fullmatch(key)
