# SPDX-License-Identifier: Apache-2.0
"""Which subnets are asked for."""

from __future__ import annotations

import json
import random
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipam.etcd_origin import EtcdOrigin
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig, parse_config
from ipam.subnet_allocator import Pool, choices, fits, own_lease, successor

ONE, TWO = (
    LeaseAttributes(IPv4Address("192.168.64.1")),
    LeaseAttributes(IPv4Address("192.168.64.2")),
)


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **keys}))


EIGHT = config(SubnetMin="10.5.1.0", SubnetMax="10.5.8.0")
DUAL = config(SubnetMin="10.5.1.0", SubnetMax="10.5.8.0", EnableIPv6=True, IPv6Network="fd05::/48")
IPV6 = config(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd05::/32")


def v4(*thirds: int) -> list[tuple[IPv4Network | None, IPv6Network | None]]:
    return [(IPv4Network(f"10.5.{third}.0/24"), None) for third in thirds]


def test_all_free_subnets_and_nothing_else() -> None:
    found = choices(EIGHT, v4(2, 7), count=100)
    assert {str(c.subnets[0]) for c in found} == {f"10.5.{n}.0/24" for n in (1, 3, 4, 5, 6, 8)}
    assert all(c.paired for c in found)


def test_none_when_all_are_held() -> None:
    assert choices(EIGHT, v4(*range(1, 9)), count=3) == []


def test_previous_comes_first_if_it_is_free_and_fits() -> None:
    previous = Lease(IPv4Network("10.5.4.0/24"), None)
    found = choices(EIGHT, v4(2), previous=previous, count=16)
    assert found[0].subnets == (previous.subnet, None)
    assert len(found) == len({c.subnets for c in found}) == 7
    taken = choices(EIGHT, v4(4), previous=previous, count=16)
    assert previous.subnet not in {c.subnets[0] for c in taken}
    for misfit in ("10.5.9.0/24", "10.6.4.0/24", "10.5.4.0/25"):
        other = Lease(IPv4Network(misfit), None)
        assert other.subnet not in {c.subnets[0] for c in choices(EIGHT, [], previous=other)}


def test_held_subnets_of_another_length_count_with_all_they_cover() -> None:
    held = [(IPv4Network("10.5.4.0/22"), None), (IPv4Network("10.5.1.128/25"), None)]
    found = choices(EIGHT, held, count=100)
    assert {str(c.subnets[0]) for c in found} == {"10.5.2.0/24", "10.5.3.0/24", "10.5.8.0/24"}


def test_dual_stack_pairs_by_number() -> None:
    held = [(IPv4Network("10.5.1.0/24"), IPv6Network("fd05:0:0:2::/64"))]
    found = choices(DUAL, held, count=100)
    assert len(found) == 6  # neither the pair of 10.5.1.0 nor that of fd05:0:0:2::
    for choice in found:
        subnet, ipv6 = choice.subnets
        assert choice.paired
        assert subnet is not None
        assert ipv6 is not None
        assert int(ipv6.network_address) >> 64 & 0xFF == int(subnet.network_address) >> 8 & 0xFF


def test_dual_stack_combines_leftovers_at_last_and_says_so() -> None:
    numbers = [(n, n % 8 + 1) for n in range(1, 8)]  # flanneld's: every pair is broken
    held = [
        (IPv4Network(f"10.5.{a}.0/24"), IPv6Network(f"fd05:0:0:{b:x}::/64")) for a, b in numbers
    ]
    found = choices(DUAL, held, count=100)
    assert [str(c.subnets[0]) for c in found] == ["10.5.8.0/24"]
    assert not found[0].paired
    ipv6 = found[0].subnets[1]
    assert ipv6 is not None
    assert not any(ipv6.overlaps(b) for _, b in held)


def test_ipv6_alone_from_more_subnets_than_can_be_listed() -> None:
    held = [(None, IPv6Network("fd05:0:0:1::/64"))]
    first, second = choices(IPV6, held, count=2, rng=random.Random(1))
    assert first != second
    assert first.subnets[0] is None
    assert fits(IPV6, *first.subnets)


def test_own_lease_prefers_the_one_in_use_then_a_reservation() -> None:
    leases = [
        Lease(IPv4Network("10.5.1.0/24"), None, TWO, False, EtcdOrigin(1, 1)),
        Lease(IPv4Network("10.5.2.0/24"), None, ONE, False, EtcdOrigin(2, 2)),
        Lease(IPv4Network("10.5.3.0/24"), None, ONE, True, EtcdOrigin(3, 0)),
        Lease(IPv4Network("10.9.4.0/24"), None, ONE, False, EtcdOrigin(4, 4)),
    ]
    reserved = own_lease(leases, EIGHT, ONE)
    assert reserved is not None
    assert reserved.key == "10.5.3.0-24"
    used = own_lease(leases, EIGHT, ONE, leases[1])
    assert used is not None
    assert used.key == "10.5.2.0-24"
    assert own_lease(leases[:1] + leases[3:], EIGHT, ONE) is None


def test_a_family_more_or_less_keeps_the_other_subnet() -> None:
    alone = Lease(IPv4Network("10.5.4.0/24"), None)
    both = successor(alone, DUAL)
    assert both is not None
    assert both.key == "10.5.4.0-24&fd05:0:0:4::-64"
    back = successor(both, EIGHT)
    assert back is not None
    assert back.key == "10.5.4.0-24"
    assert successor(Lease(IPv4Network("10.9.4.0/24"), None), DUAL) is None


def test_five_thousand_leases_take_little_time() -> None:
    big = config(Network="10.0.0.0/8")
    held = [(IPv4Network((int(IPv4Address("10.0.1.0")) + 256 * n, 24)), None) for n in range(5000)]
    started = time.process_time()
    found = choices(big, held, count=16)
    assert time.process_time() - started < 2  # it is 0.02
    assert len(found) == 16


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, 40)),
    st.integers(1, 30),
    st.integers(1, 20),
    st.booleans(),
    st.integers(),
)
def test_every_choice_is_free_and_none_is_missed(
    taken: set[int], count: int, subnets: int, dual: bool, seed: int
) -> None:
    pool_config = config(
        SubnetMin="10.5.1.0",
        SubnetMax=f"10.5.{subnets}.0",
        **({"EnableIPv6": True, "IPv6Network": "fd05::/48"} if dual else {}),
    )
    held = v4(*taken)
    found = choices(pool_config, held, count=count, rng=random.Random(seed))
    free = set(range(1, subnets + 1)) - taken
    assert len(found) == min(count, len(free)) == len(set(found))
    for choice in found:
        assert fits(pool_config, *choice.subnets)
        assert (choice.subnets[0], None) not in held


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(22, 26))))
def test_spans_are_sorted_and_disjoint(networks: list[tuple[int, int]]) -> None:
    held = [
        (IPv4Network((int(IPv4Address("10.5.0.0")) + 256 * n, length), strict=False), None)
        for n, length in networks
    ]
    pool = Pool.ipv4(config(SubnetLen=24))
    assert pool is not None
    spans = pool.spans(held)
    assert all(low <= high for low, high in spans)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize(
    ("subnet", "ipv6", "answer"),
    [
        ("10.5.1.0/24", None, True),
        ("10.5.8.0/24", None, True),
        ("10.5.0.0/24", None, False),
        ("10.5.9.0/24", None, False),
        ("10.5.1.0/25", None, False),
        (None, None, False),
        ("10.5.1.0/24", "fd05::/64", False),
    ],
)
def test_fits(subnet: str | None, ipv6: str | None, answer: bool) -> None:
    v4 = IPv4Network(subnet) if subnet else None
    v6 = IPv6Network(ipv6) if ipv6 else None
    assert fits(EIGHT, v4, v6) is answer
