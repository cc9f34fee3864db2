# SPDX-License-Identifier: Apache-2.0
"""Which endpoint gets which connections: a table of slots, the same on every host.

A connection's hash is cut to a slot, and the slot names an endpoint. The table is consistent
hashing with bounded loads: each endpoint has points on a ring, by the hash of its name alone; a
slot belongs to the next point whose endpoint has not got its share and a half. An endpoint that
comes or goes moves its own slots and few others, whatever happened before, so hosts need not agree
on a history.

Maglev's table was tried instead: of 32 to 128 slots, one of ten endpoints that goes moves 9 to
12 % of the others' slots, against 1 to 2 % here. It needs a hundred slots for each endpoint.

The number of slots grows by steps of four with the number of endpoints. A step moves nearly half of
the slots; established connections are tracked, and stay.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from bisect import bisect_left
from collections.abc import Sequence
from math import gcd

MIN_SLOTS, MAX_SLOTS = 32, 1 << 19
STEP = 4
SLOTS_EACH = 3
"""Slots for each endpoint, at least: the share of one is off by half at worst."""
POINTS = struct.Struct(">8I")
"""Points of an endpoint on the ring, for each unit of its weight."""
_RING = 1 << 32
_INDEX_BITS = 20


def slot_count(total: int) -> int:
    """How many slots a table has for endpoints whose weights are `total`."""
    count = MIN_SLOTS
    while count < SLOTS_EACH * total and count < MAX_SLOTS:
        count *= STEP
    return count


def assign(names: Sequence[str], weights: Sequence[int] = ()) -> list[int]:
    """The owner of each slot, as an index into `names`; empty without endpoints.

    `names` are unique and sorted, so that all hosts agree also where two points are the same.
    """
    if not names:
        return []
    parts = _reduced(weights) if weights else (1,) * len(names)
    points = []
    for index, name in enumerate(names):
        weight = parts[index]
        data = hashlib.shake_128(name.encode()).digest(POINTS.size * weight)
        for at in range(weight):
            points += [p << _INDEX_BITS | index for p in POINTS.unpack_from(data, at * POINTS.size)]
    points.sort()
    owners = [point & (1 << _INDEX_BITS) - 1 for point in points]
    total = sum(parts)
    count = slot_count(total)
    left = [-(-3 * count * weight // (2 * total)) for weight in parts]
    table, width, last = [0] * count, (_RING // count) << _INDEX_BITS, len(owners)
    for slot in _scattered(count):
        at = bisect_left(points, slot * width)
        if at == last:
            at = 0
        owner = owners[at]
        while not left[owner]:
            at += 1
            owner = owners[at % last]
        left[owner] -= 1
        table[slot] = owner
    return table


def _reduced(weights: Sequence[int]) -> tuple[int, ...]:
    """The same shares in the smallest numbers."""
    common = gcd(*weights)
    return tuple(weight // common for weight in weights)


@functools.lru_cache(maxsize=16)
def _scattered(count: int) -> tuple[int, ...]:
    """All slots in an order in which neighbours are far apart: no endpoint's last ones are."""
    return tuple((number * 2654435761) % count for number in range(count))
