# SPDX-License-Identifier: Apache-2.0
"""Many elements of a map as one value: those whose keys differ in their last field, a number.

A load balancer has 32 and more elements for each service. As a value each (`NftElement`), 300,000
of them cost a second to make and to compare, and 100 MiB; as one of these for each service, a tenth
of both. They are for whole states: a change of some slots is one of elements.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hostnet.netlink.socket import Request
from hostnet.nft import messages
from hostnet.nft.sets import NftElement, NftSet


class NftSlots(NamedTuple):
    """The elements `prefix . (first + n) : data[n]`."""

    set: NftSet
    prefix: bytes
    """The key's other fields, packed."""
    data: tuple[bytes, ...]
    """Packed, all of one length."""
    first: int = 0
    """The first slot."""

    @property
    def key(self) -> tuple[NftSet, bytes]:
        """The map, and the first fields of the keys."""
        return self[:2]

    def elements(self) -> Iterator[NftElement]:
        """Each as a value of its own."""
        for slot, data in zip(self.fields(), self.data, strict=True):
            yield NftElement(self.set, self.prefix + slot, data)

    def fields(self) -> Sequence[bytes]:
        """The slots' numbers as fields of the keys."""
        every = slot_fields(self.first + len(self.data))
        return every[self.first :] if self.first else every

    def parts(self, size: int) -> Iterator[NftSlots]:
        """The same elements, as values of `size` slots at most."""
        if len(self.data) <= size:
            yield self
            return
        for first in range(0, len(self.data), size):
            yield self._replace(data=self.data[first : first + size], first=self.first + first)

    def line(self, verb: str = "add") -> str:
        """The command that adds or deletes them."""
        first = next(self.elements()).line(verb)
        return f"{first}  # and {len(self.data) - 1} slots more"


@functools.lru_cache(maxsize=16)
def slot_fields(count: int) -> tuple[bytes, ...]:
    """Each slot's number as a field of a concatenation, in the host's byte order."""
    return tuple(slot.to_bytes(4, sys.byteorder) for slot in range(count))


def changed_slots(
    of: NftSet, prefix: bytes, old: tuple[bytes, ...], new: tuple[bytes, ...]
) -> tuple[list[NftElement], list[NftElement]]:
    """The elements that (go, come) as the data of some slots change; none where the sizes differ.

    Without slots before, or after, all of them do.
    """
    fields = slot_fields(max(len(old), len(new)))
    if old and new:
        differ = [slot for slot, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    else:
        differ = list(range(len(fields)))
    gone = [NftElement(of, prefix + fields[slot], old[slot]) for slot in differ] if old else []
    come = [NftElement(of, prefix + fields[slot], new[slot]) for slot in differ] if new else []
    return gone, come


def add_slots(slots: Iterable[NftSlots]) -> list[Request]:
    """Add all elements; those of one map go together."""
    by_set: dict[NftSet, list[NftSlots]] = {}
    for one in slots:
        by_set.setdefault(one.set, []).append(one)
    found = []
    for of, members in by_set.items():
        rows = ((one.prefix, one.fields(), one.data) for one in members)
        found += messages.add_rows(*of.key, rows)
    return found
