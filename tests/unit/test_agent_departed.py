"""Leases that an etcd with another history doesn't know: how long their hosts are served."""

from __future__ import annotations

from agent.departed import GRACE, Departed
from ipam import lease as codec
from ipam.lease import Lease


def lease(third: int, host: int) -> Lease:
    return codec.parse(f"10.5.{third}.0-24", f'{{"PublicIP":"192.168.64.{host}"}}')


ONE, TWO = lease(1, 11), lease(2, 12)
BOTH = {one.key: one for one in (ONE, TWO)}


def view_of_both() -> Departed:
    departed = Departed()
    assert departed.take(BOTH, 1, 0) == BOTH
    return departed


def test_lease_that_goes_in_the_ordinary_way_is_gone_at_once() -> None:
    assert view_of_both().take({ONE.key: ONE}, 1, 1) == {ONE.key: ONE}


def test_leases_that_an_empty_etcd_forgot_stay_until_the_grace_is_over() -> None:
    departed = view_of_both()
    assert departed.take({}, 2, 1) == BOTH
    assert departed.take({}, 2, GRACE) == BOTH
    assert departed.take({}, 2, GRACE + 1) == {}


def test_host_that_registers_again_is_taken_at_its_new_word() -> None:
    departed = view_of_both()
    departed.take({}, 2, 1)
    moved = lease(7, 11)
    assert departed.take({moved.key: moved}, 2, 2) == {TWO.key: TWO, moved.key: moved}


def test_subnet_that_another_host_got_is_no_longer_the_old_ones() -> None:
    departed = view_of_both()
    departed.take({}, 2, 1)
    other = lease(2, 13)
    assert departed.take({other.key: other}, 2, 2) == {ONE.key: ONE, other.key: other}


def test_second_replacement_gives_no_second_grace() -> None:
    departed = view_of_both()
    departed.take({}, 2, 1)
    departed.take({}, 3, 200)
    assert departed.take({}, 3, GRACE + 1) == {}
