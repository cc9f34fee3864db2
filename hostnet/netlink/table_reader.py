# SPDX-License-Identifier: Apache-2.0
"""Read a large table again and again, parsing only what is new.

A reconcile that finds nothing to do is the common one, and at 5,000 peers it reads 20,000
entries. Nearly all of them are byte for byte what they were, and nearly all messages of a
dump have the same length. So a buffer is cut into rows by one `struct` iteration, the
stable front part of each row looked up in a dictionary of values parsed before, and only
what is not there is parsed. Buffers with mixed rows are walked message by message.

The front part leaves out what ages (a neighbour's NDA_CACHEINFO), and holds all that the
parser reads.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Generic, TypeVar, cast

from hostnet.netlink.buffers import HEADER, NLMSG_DONE, Part, parts_of

T = TypeVar("T", bound=Hashable)
Parser = Callable[[Part, Mapping[int, str]], tuple[T | None, int]]
"""Reads one message with the names of devices: the value (None: not of interest) and the
index of the device it names, 0 for none."""

_SKIP = object()
_FIRST, _SECOND = itemgetter(0), itemgetter(1)
_SLACK = 1024  # values kept beyond twice the table, before the dictionary is made anew


class TableReader(Generic[T]):
    """A table's parser with its memory.

    `front` is the number of bytes behind the netlink header that identify a row; 0: all.
    """

    def __init__(self, parse: Parser[T], front: int = 0) -> None:
        self._parse = parse
        self._front = front
        self._known: dict[int, dict[bytes, object]] = {}
        """By length and front part of a row: one of another length has other attributes behind."""
        self._devices: dict[int, str] = {}

    def read(self, buffers: Sequence[bytes], names: Mapping[int, str]) -> list[T]:
        """The values in a dump's buffers."""
        if any(names.get(index) != name for index, name in self._devices.items()):
            self._known, self._devices = {}, {}  # a device was renamed: values hold its name
        values: list[object] = []
        for data in buffers:
            values += self._read(data, names)
        if sum(map(len, self._known.values())) > 2 * len(values) + _SLACK:
            self._known = {}
        return cast("list[T]", [value for value in values if value is not _SKIP])

    def _read(self, data: bytes, names: Mapping[int, str]) -> list[object]:
        length, kind, _, _, _ = HEADER.unpack_from(data)
        if kind == NLMSG_DONE:
            return []
        front = self._front or length - 16
        count = len(data) // length
        if length & 3 or front > length - 16:
            return [self._parsed(part, names) for part in parts_of(data)]
        whole = length * count
        rows = list(_rows(length, front).iter_unpack(memoryview(data)[:whole]))
        if len(set(map(_FIRST, rows))) != 1:  # headers differ: not all of one length or kind
            return [self._parsed(part, names) for part in parts_of(data)]
        known = self._known.setdefault(length, {})
        found = list(map(known.get, map(_SECOND, rows)))
        if None in found:
            for number, value in enumerate(found):
                if value is None:
                    begin = number * length + 16
                    value = self._parsed((data, begin, begin + length - 16), names)  # noqa: PLW2901
                    known[rows[number][1]] = value
                    found[number] = value
        if whole < len(data):
            found += [self._parsed(part, names) for part in parts_of(data[whole:])]
        return found

    def _parsed(self, part: Part, names: Mapping[int, str]) -> object:
        value, index = self._parse(part, names)
        if value is None:
            return _SKIP
        if index:
            self._devices[index] = names.get(index, "")
        return value


@functools.lru_cache(maxsize=256)
def _rows(length: int, front: int) -> struct.Struct:
    """A row: netlink header, front part, the rest skipped."""
    return struct.Struct(f"={HEADER.size}s{front}s{length - HEADER.size - front}x")
