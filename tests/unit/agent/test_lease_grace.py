# SPDX-License-Identifier: Apache-2.0
"""Leases that vanished without a release: how long their hosts are served."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from agent.leases.lease_grace import GRACE, LeaseGrace
from ipam import lease as codec
from ipam.lease import Lease, LeaseAttributes


def lease(third: int, host: int) -> Lease:
    return codec.parse(f"10.5.{third}.0-24", f'{{"PublicIP":"192.168.64.{host}"}}')


ONE, TWO = lease(1, 11), lease(2, 12)
BOTH = {one.key: one for one in (ONE, TWO)}


def after_both_vanished() -> LeaseGrace:
    departed = LeaseGrace()
    assert departed.serve(BOTH, 0) == BOTH
    departed.update(BOTH, (), 1)
    return departed


def test_vanished_leases_are_served_until_the_grace_is_over() -> None:
    departed = after_both_vanished()
    assert departed.serve({}, 1) == BOTH
    assert departed.serve({}, GRACE) == BOTH
    assert departed.serve({}, GRACE + 1) == {}


def test_a_later_release_ends_the_grace() -> None:
    departed = after_both_vanished()
    departed.update({}, [ONE.key], 2)
    assert departed.serve({}, 2) == {TWO.key: TWO}


def test_host_that_registers_again_is_served_by_its_new_lease() -> None:
    moved = lease(7, 11)
    there = {moved.key: moved}
    assert after_both_vanished().serve(there, 2) == {TWO.key: TWO, **there}


def test_subnet_that_another_host_got_is_no_longer_the_old_ones() -> None:
    other = lease(2, 13)
    there = {other.key: other}
    assert after_both_vanished().serve(there, 2) == {ONE.key: ONE, **there}


def test_vanishing_again_gives_no_second_grace() -> None:
    departed = after_both_vanished()
    departed.update(BOTH, (), 200)
    assert departed.serve({}, GRACE + 1) == {}


def test_a_kept_lease_goes_exactly_where_a_subnet_overlaps() -> None:
    rng = random.Random(1)

    def network(version: int) -> IPv4Network | IPv6Network:
        length = rng.randrange(20, 31)
        if version == 4:
            return IPv4Network((rng.getrandbits(12) << 12, length), strict=False)
        return IPv6Network((rng.getrandbits(12) << 112, length), strict=False)

    for _ in range(200):
        version = rng.choice((4, 6))
        networks = [network(version) for _ in range(rng.randrange(1, 8))]  # nested ones too
        v4 = [one if isinstance(one, IPv4Network) else None for one in networks]
        v6 = [one if isinstance(one, IPv6Network) else None for one in networks]
        there, (kept,) = [
            [
                Lease(a, b, LeaseAttributes(IPv4Address(base + n)))
                for n, (a, b) in enumerate(zip(v4[part], v6[part], strict=True))
            ]
            for base, part in ((1, slice(1, None)), (1000, slice(0, 1)))
        ]
        grace = LeaseGrace()
        grace.update({"kept": kept}, (), 0)
        served = grace.serve({str(n): one for n, one in enumerate(there)}, 1)
        free = not any(
            networks[0].version == one.version and networks[0].overlaps(one) for one in networks[1:]
        )
        assert ("kept" in served) == free
