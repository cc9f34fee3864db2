# SPDX-License-Identifier: Apache-2.0
"""The slots of a map as one value, in real namespaces; and who hears that they were written."""

from __future__ import annotations

import subprocess

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.nft_element import MAX_TRANSACTION
from hostnet.kinds.nft_table import NftTable
from hostnet.nft.sets import NftElement, NftSet, SetSocket, add_sets, change_elements
from hostnet.nft.slots import NftSlots, add_slots, changed_slots
from hostnet.nft.watch import NftWatch
from hostnet.ownership import SERVICES, SERVICES_TABLE
from hostnet.state import HostState

MAP = NftSet(
    "inet", SERVICES_TABLE, "virtual", ("ipv4_addr", "tcp_service", "slot"), ("ipv4_addr",)
)
TABLE = NftTable("inet", SERVICES_TABLE, "")


def slots(service: int, count: int, ends: int = 3) -> NftSlots:
    data = tuple(bytes((10, 5, 1, slot % ends)) for slot in range(count))
    return NftSlots(MAP, bytes((10, 96, 0, service)) + b"\0\x50\0\0", data)


def state(*wanted: NftSlots) -> HostState:
    return HostState(tables=[TABLE], sets=[MAP], slots=wanted)


@pytest.mark.parametrize("count", [32, MAX_TRANSACTION + 5])
def test_all_slots_are_written_and_found_right(netns: str, count: int) -> None:
    """Also those of one service that are more than a transaction takes."""
    wanted = state(slots(1, 32), slots(2, count))
    with Kernel(netns, mark=SERVICES) as kernel, SetSocket(netns) as sets:
        assert reconcile(wanted, kernel).ok
        each = {element for one in wanted.of(NftSlots) for element in one.elements()}
        assert sets.elements(MAP) == each
        assert not plan_full(wanted, kernel)


def test_slots_that_another_program_changes_are_put_right(netns: str) -> None:
    wanted = state(slots(1, 32), slots(2, 32))
    with Kernel(netns, mark=SERVICES) as kernel, SetSocket(netns) as sets:
        assert reconcile(wanted, kernel).ok
        gone, wrong, *_ = slots(1, 32).elements()
        stranger = NftElement(MAP, bytes((10, 96, 0, 9)) + wrong.element[4:], wrong.data)
        sets.apply(
            list(change_elements([gone, wrong], [wrong._replace(data=b"\x0a\x06\0\1"), stranger]))
        )
        outcome = reconcile(wanted, kernel)
        assert outcome.ok
        assert outcome.changes <= 3
        each = {element for one in wanted.of(NftSlots) for element in one.elements()}
        assert sets.elements(MAP) == each
        assert reconcile(state(slots(2, 32)), kernel).ok
        assert sets.elements(MAP) == set(slots(2, 32).elements())


def test_a_change_is_that_of_the_slots_which_differ() -> None:
    old, new = slots(1, 32).data, slots(1, 32, ends=2).data
    gone, come = changed_slots(MAP, b"", old, new)
    assert len(gone) == len(come) == sum(a != b for a, b in zip(old, new, strict=True)) > 0
    assert changed_slots(MAP, b"", old, old) == ([], [])
    assert [len(part) for part in changed_slots(MAP, b"", old, ())] == [32, 0]
    assert [len(part) for part in changed_slots(MAP, b"", (), new)] == [0, 32]


def test_only_changes_of_senders_that_are_not_ignored_are_heard(netns: str) -> None:
    watch = NftWatch(lambda _kind, _family, table: table == SERVICES_TABLE, netns)
    try:
        with SetSocket(netns) as ours, SetSocket(netns) as other:
            ours.apply(add_sets([MAP]))
            assert watch.drain()
            watch.ignore([ours.port])
            ours.apply(add_slots([slots(1, 3000)]))
            assert watch.drain() == []
            other.apply(list(change_elements(list(slots(1, 1).elements()), [])))
            assert watch.drain() == [f"nftables table {SERVICES_TABLE} changed"]
            nft = ("nft", "delete", "table", "inet", SERVICES_TABLE)
            subprocess.run(["ip", "netns", "exec", netns, *nft], check=True)
            assert watch.drain() == [f"nftables table {SERVICES_TABLE} changed"]
    finally:
        watch.close()
