# SPDX-License-Identifier: Apache-2.0
"""Slots: one endpoint that goes moves its own connections and few others."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from services.slots import assign, slot_count


def owners(names: list[str], weights: list[int] | None = None) -> list[str]:
    return [names[owner] for owner in assign(names, weights or [])]


@pytest.mark.parametrize("count", [2, 3, 5, 9, 10, 30, 42, 150])
def test_one_that_goes_moves_few_connections_of_others(count: int) -> None:
    chance = random.Random(count)
    moved = []
    for service in range(20):
        names = sorted(f"s{service}/{number}" for number in range(count))
        before = owners(names)
        gone = chance.choice(names)
        after = owners([name for name in names if name != gone])
        assert len(before) == len(after)
        assert gone not in after
        pairs = zip(before, after, strict=True)
        moved.append(mean(old not in (new, gone) for old, new in pairs))
    assert mean(moved) <= 0.05


@pytest.mark.parametrize("count", [1, 2, 7, 10, 11, 100, 1000])
def test_no_endpoint_has_more_than_half_above_its_share(count: int) -> None:
    table = owners(sorted(f"web/{number}" for number in range(count)))
    share = len(table) / count
    assert len(table) == slot_count(count) >= 3 * count
    assert max(table.count(name) for name in set(table)) <= 1.5 * share + 1


def test_weights_are_shares() -> None:
    table = owners(["a", "b"], [30, 10])
    assert table == owners(["a", "b"], [3, 1])
    assert table.count("a") > 1.7 * table.count("b")


def test_without_endpoints_there_are_no_slots() -> None:
    assert assign([]) == []
