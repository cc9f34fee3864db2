# SPDX-License-Identifier: Apache-2.0
"""Under which addresses a host stays known when others come to its device and go."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface

from agent.underlay import with_addresses_kept
from hostnet.underlay import Underlay

OWN4, OWN6 = IPv4Address("192.168.64.11"), IPv6Address("fd00:1::11")
BEFORE = Underlay(
    link="eth0",
    mtu=1500,
    public_ip=OWN4,
    public_ipv6=OWN6,
    addresses=(ip_interface("192.168.64.11/24"), ip_interface("fd00:1::11/64")),
)
# as detected where the kernel lists another address first
FLOATING = replace(
    BEFORE,
    public_ip=IPv4Address("192.168.64.200"),
    public_ipv6=IPv6Address("fd00:1::200"),
    addresses=(
        *(ip_interface(one) for one in ("192.168.64.200/24", "fd00:1::200/64")),
        *BEFORE.addresses,
    ),
)


def test_an_address_that_comes_first_does_not_replace_the_one_in_force() -> None:
    kept = with_addresses_kept(FLOATING, BEFORE, keep_v4=True, keep_v6=True)
    assert (kept.public_ip, kept.public_ipv6) == (OWN4, OWN6)
    assert kept.addresses == FLOATING.addresses


def test_an_address_that_is_gone_is_replaced() -> None:
    renumbered = replace(FLOATING, addresses=FLOATING.addresses[:2])
    assert with_addresses_kept(renumbered, BEFORE, keep_v4=True, keep_v6=True) == renumbered


def test_addresses_that_were_asked_for_and_those_of_another_device_are_taken() -> None:
    assert with_addresses_kept(FLOATING, BEFORE, keep_v4=False, keep_v6=False) == FLOATING
    other = replace(FLOATING, link="eth1")
    assert with_addresses_kept(other, BEFORE, keep_v4=True, keep_v6=True) == other
