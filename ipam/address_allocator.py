# SPDX-License-Identifier: Apache-2.0
"""Which address a pod gets: a requested one, the one it had, or the next of its ranges.

The search starts after the address given last and wraps around, so an address that was freed
is the last to be given again. It reads the held addresses in order, and stops at the first gap:
its cost is the number of held addresses before that gap, usually none.

Addresses are integers with a family, stored as 4 or 16 bytes in network order, which SQLite
sorts as numbers (an IPv6 address doesn't fit its integers).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple, Protocol

from base.errors import FlatmeshError


class AddressStoreError(FlatmeshError):
    """The address store can't be used; one line: which file, why, what to do."""


class AddressTakenError(AddressStoreError):
    """A requested address is held by another attachment, or in none of the ranges."""


class NoFreeAddressError(AddressStoreError):
    """All addresses of a set of ranges are held."""


class Address(NamedTuple):
    """One address; `str()` is its usual form."""

    family: int
    """4 or 6."""
    value: int

    def __str__(self) -> str:
        return inet_ntop(AF_INET if self.family == 4 else AF_INET6, self.packed)

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes, network order."""
        return self.value.to_bytes(4 if self.family == 4 else 16, "big")

    @classmethod
    def unpack(cls, packed: bytes) -> Address:
        """From 4 or 16 bytes."""
        return cls(4 if len(packed) == 4 else 6, int.from_bytes(packed, "big"))


class AddressRange(Protocol):
    """Addresses that may be given, both ends included, less the gateway (0: none)."""

    @property
    def family(self) -> int:
        """4 or 6."""

    @property
    def first(self) -> int:
        """Lowest address."""

    @property
    def last(self) -> int:
        """Highest address."""

    @property
    def gateway(self) -> int:
        """Never given."""


RangeSet = Sequence[AddressRange]
"""Ranges of one family, of which an attachment gets one address."""


def allocate(
    db: sqlite3.Connection,
    pool: str,
    sets: Sequence[RangeSet],
    requested: Collection[tuple[int, int]],
    again: Sequence[Address],
    network: str,
    never: Collection[Address] = (),
) -> tuple[Address, ...]:
    """One address of each set: a requested one, else the one given before, else the next.

    None of `never`, which other programs have given. Raises AddressTakenError, NoFreeAddressError.
    """

    def taken(address: Address) -> bool:
        return address in never or _taken(db, pool, address)

    wanted = [Address(*each) for each in requested]
    chosen: list[Address] = []
    for ranges in sets:
        asked = next((a for a in wanted if _holds(ranges, a)), None)
        before = next((a for a in again if _holds(ranges, a) and not taken(a)), None)
        if asked is not None:
            wanted.remove(asked)
            if asked in chosen or taken(asked):
                raise AddressTakenError(
                    f"requested address {asked} is held by another pod of network {network}"
                )
            chosen.append(asked)
        elif before is not None and before not in chosen:
            chosen.append(before)
        else:
            found = next_free(db, pool, ranges, {*chosen, *never}, network)
            db.execute(
                "INSERT OR REPLACE INTO given_last VALUES (?, ?, ?)",
                (pool, _signature(ranges), found.packed),
            )
            chosen.append(found)
    if wanted:
        raise AddressTakenError(
            f"requested address {wanted[0]} is in none of the ranges of network {network}"
        )
    return tuple(chosen)


def next_free(
    db: sqlite3.Connection,
    pool: str,
    ranges: RangeSet,
    chosen: Collection[Address],
    network: str,
) -> Address:
    """The first free address after the one given last, wrapping around once.

    Raises NoFreeAddressError.
    """
    row = db.execute(
        "SELECT address FROM given_last WHERE pool = ? AND ranges = ?", (pool, _signature(ranges))
    ).fetchone()
    spans = [(r.family, r.first, r.last, r.gateway) for r in ranges]
    if row is not None:
        last = Address.unpack(row[0])
        at = next(
            (i for i, r in enumerate(ranges) if r.family == last.family and _in(r, last)), None
        )
        if at is not None:  # the rest of its range first, and the part before it last
            family, low, high, gateway = spans[at]
            spans = [
                (family, last.value + 1, high, gateway),
                *spans[at + 1 :],
                *spans[:at],
                (family, low, last.value, gateway),
            ]
    for family, low, high, gateway in spans:
        never = {gateway, *(a.value for a in chosen if a.family == family)}
        value = _first_gap(db, pool, family, low, high, never)
        if value is not None:
            return Address(family, value)
    where = ", ".join(f"{Address(r.family, r.first)}-{Address(r.family, r.last)}" for r in ranges)
    raise NoFreeAddressError(
        f"network {network} has no free address in {where}: delete pods, or give it more"
    )


def _first_gap(
    db: sqlite3.Connection, pool: str, family: int, low: int, high: int, never: set[int]
) -> int | None:
    """The lowest free address from `low` to `high`, None when all are held.

    Reads the held ones in order up to the first gap.
    """
    if low > high:
        return None
    rows = db.execute(
        "SELECT address FROM address WHERE pool = ? AND address BETWEEN ? AND ?"
        " AND length(address) = ? ORDER BY address",
        (
            pool,
            Address(family, low).packed,
            Address(family, high).packed,
            4 if family == 4 else 16,
        ),
    )
    candidate = low
    for (packed,) in rows:
        while candidate in never:
            candidate += 1
        held = int.from_bytes(packed, "big")
        if held > candidate:
            break
        if held == candidate:
            candidate += 1
    while candidate in never:
        candidate += 1
    return candidate if candidate <= high else None


def _taken(db: sqlite3.Connection, pool: str, address: Address) -> bool:
    row = db.execute(
        "SELECT 1 FROM address WHERE pool = ? AND address = ?", (pool, address.packed)
    ).fetchone()
    return row is not None


def _in(one: AddressRange, address: Address) -> bool:
    return one.family == address.family and one.first <= address.value <= one.last


def _holds(ranges: RangeSet, address: Address) -> bool:
    return any(_in(r, address) and address.value != r.gateway for r in ranges)


def _signature(ranges: RangeSet) -> str:
    return ",".join(f"{r.family}:{r.first:x}-{r.last:x}" for r in ranges)
