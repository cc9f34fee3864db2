# SPDX-License-Identifier: Apache-2.0
"""Floating addresses as values, and the rules of who takes one and for how long."""

from __future__ import annotations

import pytest

from services.model import ServiceError
from services.vip.model import LEASE_SECONDS, Vip, claim_delay, format_vip, parse_vip, seconds_left

WEB = Vip("web", ("192.0.2.100", "2001:db8::100"), ("192.0.2.11", "h2"))


def test_a_value_is_read_as_it_was_written() -> None:
    assert parse_vip("web", format_vip(WEB)) == WEB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Web", format_vip(WEB)),
        ("web", b"[]"),
        ("web", b"\xff"),
        ("web", b'{"Addresses":["192.0.2.1"]}'),
        ("web", b'{"Addresses":["192.0.2.1","192.0.2.2"],"Hosts":["a"]}'),
        ("web", b'{"Addresses":["224.0.0.1"],"Hosts":["a"]}'),
        ("web", b'{"Addresses":["fe80::1"],"Hosts":["a"]}'),
        ("web", b'{"Addresses":["192.0.2.1"],"Hosts":["a","a"]}'),
        ("web", b'{"Addresses":["192.0.2.1"],"Hosts":[1]}'),
        ("web", b'{"Addresses":["192.0.2.1"],"Host":["a"]}'),
    ],
)
def test_what_can_not_be_held_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(ServiceError):
        parse_vip(name, value)


def test_the_preferred_host_is_first_and_one_that_is_asked_is_before_all() -> None:
    ranks = [WEB.rank(names) for names in (("192.0.2.11", "h1"), ("192.0.2.12", "h2"), ("x",))]
    assert ranks == [0, 1, None]
    first = claim_delay(0, move_to_us=False, move_to_other=False)
    assert first < claim_delay(1, move_to_us=False, move_to_other=False)
    assert claim_delay(5, move_to_us=True, move_to_other=False) < first
    assert first + 2 < claim_delay(0, move_to_us=False, move_to_other=True)


def test_the_kernel_has_an_address_for_less_than_the_lease_lasts() -> None:
    assert seconds_left(100.0, LEASE_SECONDS, 100.5) + 2 < LEASE_SECONDS - 0.5
    assert seconds_left(100.0, LEASE_SECONDS, 100.0 + LEASE_SECONDS) < 1
