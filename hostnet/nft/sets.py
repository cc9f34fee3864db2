# SPDX-License-Identifier: Apache-2.0
"""nftables sets and maps whose elements change one by one, with no text on the way.

An `NftSet` says what a set is, an `NftElement` what is in it. Both are values like all others
in `hostnet.state`: an element's `key` says which it is, equality whether it is right, so that the
difference of two collections of elements is what has to be sent.

The table itself is made elsewhere; a set of ours lives in a table of ours.

`SetSocket` is one netlink socket in one namespace, for one thread at a time.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Self

from hostnet.netlink.attributes import ATTRIBUTE, NLA_TYPE_MASK, attributes, text_of
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import DUMP_ATTEMPTS, NetlinkError, NetlinkSocket, Request
from hostnet.netns import NetnsRef
from hostnet.nft import datatypes, messages

SEND_BUFFER = 64 * 1024 * 1024
"""Bytes: a transaction is one sendmsg, and 100,000 map elements are 4 MiB of it."""
DEFAULT_SEND_BUFFER = 64 * 1024
"""Bytes that a socket takes in any case: net.core.wmem_default is 208 KiB, headers apart."""


class NftSet(NamedTuple):
    """A set, or a map where `data` names types. nft(8): `set NAME { type KEY; }`."""

    family: str
    """`inet`, `ip`, `ip6`, `bridge`, `netdev` or `arp`."""
    table: str
    name: str
    types: tuple[str, ...]
    """Of the key, by their names in nft(8); several make a concatenation."""
    data: tuple[str, ...] = ()
    comment: str = ""
    """Who owns it; `nft list` prints it."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Family, table and name."""
        return self[:3]

    def line(self) -> str:
        """The command that makes it."""
        kind = "map" if self.data else "set"
        types = datatypes.declaration(self.types, self.data)
        return f"nft add {kind} {self.family} {self.table} {self.name} {{ {types} ; }}"

    @property
    def needs_text(self) -> bool:
        """Whether only nft(8) can declare it: it notes expressions beside an integer's type."""
        return any(datatypes.TYPES[name].number == datatypes.INTEGER for name in self.types)


class NftElement(NamedTuple):
    """One element. The key and the data are packed: see `hostnet.nft.datatypes.pack`."""

    set: NftSet
    element: bytes
    data: bytes = b""

    @property
    def key(self) -> tuple[NftSet, bytes]:
        """The set and the element's key."""
        return self[:2]

    def line(self, verb: str = "add") -> str:
        """The command that adds or deletes it."""
        text = datatypes.text_of(self.set.types, self.element)
        if self.set.data and verb == "add":
            text += " : " + datatypes.text_of(self.set.data, self.data)
        where = f"{self.set.family} {self.set.table} {self.set.name}"
        return f"nft {verb} element {where} {{ {text} }}"


class SetSocket:
    """Sets and elements of one namespace. Close it, or use it as a context manager."""

    def __init__(self, netns: NetnsRef | None = None) -> None:
        """Open it in `netns` (None: the caller's). Raises NetnsError, OSError."""
        self._socket = NetlinkSocket(netns, protocol=messages.NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self._socket.close()

    def apply(self, requests: Collection[Request]) -> None:
        """Do the requests as one transaction: all of them or none.

        Raises NetlinkError: the first refusal (ENOENT: a deleted element was not there; EEXIST:
        an added one is there with other data; ENOENT also for a table that is missing).
        """
        if not requests:
            return
        if sum(len(request.body) for request in requests) > DEFAULT_SEND_BUFFER:
            self._socket.send_buffer(SEND_BUFFER)
        self._socket.transact(messages.batch(requests))

    @property
    def port(self) -> int:
        """The netlink port that its changes come from."""
        return self._socket.port

    def sets(self, family: str, table: str) -> frozenset[NftSet]:
        """The sets and maps of a table whose types this module knows; none for a missing table.

        Anonymous ones (`__set0`), which belong to a rule, are left out. Raises NetlinkError.
        """
        try:
            parts = self._socket.dump(*messages.get_sets(family, table), "nft list sets")
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return frozenset()
            raise
        known = (_parse_set(family, part) for part in parts)
        return frozenset(one for one in known if one is not None)

    def elements(self, of: NftSet) -> frozenset[NftElement]:
        """All elements of a set; none for a missing one. Raises NetlinkError.

        A set grows by moving its elements to a larger hash table, in the background. A dump
        meanwhile misses some, and the kernel doesn't say so. So it is taken again until it holds
        as many as the set; where the kernel tells no number, until two dumps agree.
        """
        before: frozenset[NftElement] | None = None
        for _ in range(DUMP_ATTEMPTS):
            try:
                count = self._count(of)
                found = self._elements(of)
            except NetlinkError as error:
                if error.errno == errno.ENOENT:
                    return frozenset()
                raise
            if count == len(found) or (count is None and found == before):
                return found
            before = found
        operation = f"nft list set {of.name}"
        raise NetlinkError(errno.EINTR, "the set kept changing during the dump", operation)

    def _count(self, of: NftSet) -> int | None:
        data, begin, end = self._socket.get(messages.get_set(*of.key), f"nft list set {of.name}")
        return messages.count_of(data[begin:end])

    def _elements(self, of: NftSet) -> frozenset[NftElement]:
        sizes = datatypes.size_of(of.types), datatypes.size_of(of.data) if of.data else 0
        parts = self._socket.dump(*messages.get_elements(*of.key), f"nft list set {of.name}")
        return frozenset(
            NftElement(of, key, data)
            for part in parts
            for key, data in _parse_elements(part, *sizes)
        )


def add_sets(sets: Iterable[NftSet]) -> list[Request]:
    """Make sets and maps that are not there, and their tables where these are missing."""
    sets = list(sets)
    found = [messages.new_table(*table) for table in sorted({one.key[:2] for one in sets})]
    for number, one in enumerate(sets, 1):
        found.append(
            messages.new_set(
                *one.key,
                set_id=number,
                key=(datatypes.number_of(one.types), datatypes.size_of(one.types)),
                data=(datatypes.number_of(one.data), datatypes.size_of(one.data))
                if one.data
                else None,
                userdata=messages.set_userdata(
                    key_order=datatypes.byte_order(one.types),
                    data_order=datatypes.byte_order(one.data),
                    comment=one.comment,
                ),
            )
        )
    return found


def delete_sets(sets: Iterable[NftSet]) -> list[Request]:
    """Delete sets and maps with all they hold."""
    return [messages.del_set(*one.key) for one in sets]


def change_elements(gone: Collection[NftElement], new: Collection[NftElement]) -> Iterator[Request]:
    """Take elements out and put elements in.

    An element that changes its data is in both: the kernel refuses to overwrite data, but takes
    a deletion and an addition in one transaction, so that no packet finds the key missing.
    """
    for one, members in _by_set(gone).items():
        yield from messages.del_elements(*one.key, (each.element for each in members))
    for one, members in _by_set(new).items():
        yield from messages.add_elements(*one.key, ((m.element, m.data) for m in members))


def _by_set(elements: Iterable[NftElement]) -> dict[NftSet, list[NftElement]]:
    found: dict[NftSet, list[NftElement]] = defaultdict(list)
    last, members = None, []
    for one in elements:
        if one.set is not last:  # hashing a set for each of 100,000 elements costs 50 ms
            last, members = one.set, found[one.set]
        members.append(one)
    return found


def _parse_set(family: str, part: Part) -> NftSet | None:
    data, begin, end = part
    found = attributes(data, begin + 4, end)
    name = text_of(found.get(messages.NFTA_SET_NAME))
    types = datatypes.names_of(
        _be32(found.get(messages.NFTA_SET_KEY_TYPE)), _be32(found.get(messages.NFTA_SET_KEY_LEN))
    )
    if name.startswith("__") or not types:
        return None
    values: tuple[str, ...] = ()
    if _be32(found.get(messages.NFTA_SET_FLAGS)) & messages.NFT_SET_MAP:
        values = datatypes.names_of(
            _be32(found.get(messages.NFTA_SET_DATA_TYPE)),
            _be32(found.get(messages.NFTA_SET_DATA_LEN)),
        )
        if not values:
            return None
    comment = messages.comment_of(found.get(messages.NFTA_SET_USERDATA))
    table = text_of(found.get(messages.NFTA_SET_TABLE))
    return NftSet(family, table, name, types, values, comment)


def _be32(payload: bytes | None) -> int:
    return int.from_bytes(payload, "big") if payload else 0


def _parse_elements(part: Part, key_size: int, data_size: int) -> Iterator[tuple[bytes, bytes]]:
    data, begin, end = part
    position = begin + 4
    while position + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, position)
        if length < 4:
            return
        if kind & NLA_TYPE_MASK == messages.NFTA_SET_ELEM_LIST_ELEMENTS:
            yield from messages.parse_elements(
                data, position + 4, position + length, key_size, data_size
            )
        position += (length + 3) & ~3
