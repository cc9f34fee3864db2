# SPDX-License-Identifier: Apache-2.0
"""A table of many chains that changes by its differences, in one transaction, with no text.

`hostnet.kinds.nft_table` replaces a table as a whole, which is right for a page of rules. This one
is for thousands of chains that come and go one by one: what differs is sent, and packets meet the
table as it was or as it is to be, never between.

The kernel keeps expressions, not the rule that was meant. So each rule has a digest as its comment,
and a table is as wanted when its chains have the right digests in the right order: rules that
others have added, taken away or replaced do not have them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request
from hostnet.netns import NetnsRef
from hostnet.nft import chain_messages, messages
from hostnet.nft.chain_messages import Verdict
from hostnet.nft.counters import read_counters
from hostnet.nft.expressions import NftRule
from hostnet.nft.sets import NftElement, NftSet, SetSocket, add_sets, change_elements, delete_sets

MAX_TRANSACTION = 16_000
"""Elements; the kernel's time for one transaction grows with the square of their number."""

Elements = frozenset[bytes]
NONE: Elements = frozenset()


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """A map from an address to a verdict, and what is in it."""

    key: str
    """The type of the address, by its name in nft(8)."""
    verdicts: Mapping[bytes, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChainTable:
    """What is in a table, or is to be. Never changed after it was made."""

    family: str
    name: str
    chains: Mapping[str, tuple[NftRule, ...]]
    """Of those that were read, rules have digests only."""
    hooks: Mapping[str, int]
    """Those of the chains that are on the hook `forward`, and their priorities."""
    sets: Mapping[NftSet, Elements]
    maps: Mapping[str, VerdictMap]
    counters: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, str]:
        """Family and name."""
        return self.family, self.name

    def empty(self) -> ChainTable:
        """A table of this name with nothing in it."""
        return ChainTable(self.family, self.name, {}, {}, {}, {})


def changes(actual: ChainTable | None, wanted: ChainTable) -> list[list[Request]]:
    """The transactions that make it so, mostly one; none where nothing differs. Pure.

    `actual` None: there is no such table.
    """
    begin: list[Request] = []
    if actual is None or not _same_frame(actual, wanted):
        begin = [messages.new_table(*wanted.key)]
        if actual is not None:
            begin += [chain_messages.delete_table(*wanted.key), *begin]
        actual = wanted.empty()
    new, gone = _element_changes(actual, wanted)
    if len(new) > MAX_TRANSACTION and len(begin) < 2:
        # sets that are filled before a rule looks at them harm nobody
        added = [one for one in wanted.sets if one not in actual.sets]
        chunks = [
            list(change_elements((), new[first : first + MAX_TRANSACTION]))
            for first in range(0, len(new), MAX_TRANSACTION)
        ]
        filled = {
            **actual.sets,
            **{o: actual.sets.get(o, NONE) | e for o, e in wanted.sets.items()},
        }
        return [[*begin, *add_sets(added)], *chunks, *changes(replace(actual, sets=filled), wanted)]
    whole = [*begin, *_transaction(actual, wanted, new, gone)]
    return [whole] if whole else []


def _same_frame(actual: ChainTable, wanted: ChainTable) -> bool:
    """Whether what differs can be changed where it is: the hooks and the sets' types are right."""
    hooks = {name: at for name, at in actual.hooks.items() if name in wanted.hooks}
    others = actual.hooks.keys() - wanted.hooks.keys()
    plain = (actual.chains.keys() & wanted.hooks.keys()) - hooks.keys()
    wrong = any(wanted.hooks[name] != at for name, at in hooks.items())
    types = {one.name: (one.types, one.data) for one in wanted.sets}
    retyped = any(
        types.get(one.name, (one.types, one.data)) != (one.types, one.data) for one in actual.sets
    )
    return not (others or plain or wrong or retyped)


def _element_changes(
    actual: ChainTable, wanted: ChainTable
) -> tuple[list[NftElement], list[NftElement]]:
    """Elements that (come, go); of sets that go as a whole, none."""
    new: list[NftElement] = []
    gone: list[NftElement] = []
    for one, elements in wanted.sets.items():
        before = actual.sets.get(one, frozenset())
        if before is elements:
            continue
        new += [NftElement(one, key) for key in sorted(elements - before)]
        gone += [NftElement(one, key) for key in sorted(before - elements)]
    return new, gone


def _transaction(
    actual: ChainTable, wanted: ChainTable, new: list[NftElement], gone: list[NftElement]
) -> Iterator[Request]:
    """What is referred to comes first, and goes last."""
    table = wanted.key
    for name in sorted(wanted.counters - actual.counters):
        yield chain_messages.new_counter(*table, name)
    added = [one for one in wanted.sets if one not in actual.sets]
    yield from add_sets(added)
    for number, name in enumerate(sorted(wanted.maps.keys() - actual.maps.keys()), 1000):
        key = wanted.maps[name].key
        yield chain_messages.new_verdict_map(*table, name, key, set_id=len(added) + number)
    yield from change_elements(gone, new)
    for name in wanted.chains:
        if name not in actual.chains:
            yield chain_messages.new_chain(*table, name, wanted.hooks.get(name))
    yield from _rule_changes(actual, wanted)
    for name, one in wanted.maps.items():
        there = actual.maps[name].verdicts if name in actual.maps else {}
        yield from _verdict_changes(table, name, there, one.verdicts)
    dropped = [name for name in actual.chains if name not in wanted.chains]
    for name in dropped:
        yield chain_messages.flush_chain(*table, name)
    for name in dropped:
        yield chain_messages.delete_chain(*table, name)
    yield from delete_sets(one for one in actual.sets if one not in wanted.sets)


def _rule_changes(actual: ChainTable, wanted: ChainTable) -> Iterator[Request]:
    for name, rules in wanted.chains.items():
        there = actual.chains.get(name, ())
        if there is rules or [one.digest for one in there] == [one.digest for one in rules]:
            continue
        if there:
            yield chain_messages.flush_chain(*wanted.key, name)
        for one in rules:
            yield chain_messages.new_rule(*wanted.key, name, one)


def _verdict_changes(
    table: tuple[str, str],
    name: str,
    there: Mapping[bytes, Verdict],
    wanted: Mapping[bytes, Verdict],
) -> Iterator[Request]:
    if there is wanted:
        return
    stale = [key for key, one in there.items() if wanted.get(key) != one]
    fresh = [(key, one) for key, one in wanted.items() if there.get(key) != one]
    yield from chain_messages.delete_verdicts(*table, name, stale)
    yield from chain_messages.add_verdicts(*table, name, fresh)


class ChainTableSocket:
    """Reads and changes such a table in one namespace. Close it; for one thread at a time."""

    def __init__(self, netns: NetnsRef | None = None) -> None:
        """Open it in `netns` (None: the caller's). Raises NetnsError, OSError."""
        self._netns = netns
        self._sets = SetSocket(netns)
        self._socket = NetlinkSocket(netns, protocol=messages.NETLINK_NETFILTER)

    @property
    def port(self) -> int:
        """The netlink port that its changes come from."""
        return self._sets.port

    def close(self) -> None:
        """Close the sockets; again is harmless."""
        self._sets.close()
        self._socket.close()

    def apply(self, transactions: list[list[Request]]) -> None:
        """Do them, each all or nothing. Raises NetlinkError."""
        for one in transactions:
            self._sets.apply(one)

    def delete(self, family: str, name: str) -> None:
        """Delete the table; that there is none is no error. Raises NetlinkError."""
        make, delete = messages.new_table(family, name), chain_messages.delete_table(family, name)
        self._sets.apply([make, delete])

    def read(self, like: ChainTable) -> ChainTable | None:
        """What the table of that name holds now; None: there is none. Raises NetlinkError.

        `like` says of which type a map is.
        """
        table = like.key
        priorities: dict[str, int | None] = {}
        for part in self._dump(chain_messages.get_chains(like.family), "nft list chains"):
            where, name, priority = chain_messages.parse_chain(part)
            if where == like.name:
                priorities[name] = priority
        sets = self._sets.sets(*table)
        if not priorities and not sets:
            return None
        found: dict[str, list[NftRule]] = {name: [] for name in priorities}
        for part in self._dump(chain_messages.get_rules(*table), "nft list ruleset"):
            where, chain, digest = chain_messages.parse_rule(part)
            if where == like.name:
                found.setdefault(chain, []).append(NftRule(digest))
        mine = {one.name: one for one in like.sets}
        read = {
            mine[one.name] if one.name in mine and _alike(one, mine[one.name]) else one: frozenset(
                each.element for each in self._sets.elements(one)
            )
            for one in sets
        }
        maps: dict[str, VerdictMap] = {}
        for name, one in like.maps.items():
            verdicts = self._verdicts(table, name)
            if verdicts is not None:
                maps[name] = VerdictMap(one.key, verdicts)
        return ChainTable(
            *table,
            {name: tuple(rules) for name, rules in found.items()},
            {name: at for name, at in priorities.items() if at is not None},
            read,
            maps,
            frozenset(read_counters(*table, self._netns)),
        )

    def _verdicts(self, table: tuple[str, str], name: str) -> dict[bytes, Verdict] | None:
        try:
            parts = self._socket.dump(*messages.get_elements(*table, name), f"nft list map {name}")
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return dict(row for part in parts for row in chain_messages.parse_verdicts(part))

    def _dump(self, request: tuple[int, bytes], what: str) -> list[tuple[bytes, int, int]]:
        try:
            return list(self._socket.dump(*request, what))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return []
            raise


def _alike(one: NftSet, other: NftSet) -> bool:
    return (one.types, one.data) == (other.types, other.data)
