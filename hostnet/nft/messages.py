# SPDX-License-Identifier: Apache-2.0
"""nf_tables messages, packed with `struct`: tables, sets, maps and their elements.

Theory of operation
-------------------
A change to nf_tables is a batch: NFNL_MSG_BATCH_BEGIN, any number of messages,
NFNL_MSG_BATCH_END, all in one `sendmsg`. The kernel takes all of it in one transaction or
none of it. Elements travel many to a message: an attribute's length is 16 bits, so one
NEWSETELEM holds up to 64 KiB of them, and 100,000 elements are some eighty messages.

Every element of a set has the same layout, so that all but the key and the data is constant:

    NFTA_LIST_ELEM { NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE key },
                     NFTA_SET_ELEM_DATA { NFTA_DATA_VALUE data } }

bench/nft_elements.py measures this beside text for nft(8).

Numbers of nf_tables attributes are in network byte order (linux/netfilter/nf_tables.h,
linux/netfilter/nfnetlink.h).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence

from hostnet.netlink.attributes import ATTRIBUTE, NLA_F_NESTED, attr, attr_text, attributes
from hostnet.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Request

NETLINK_NETFILTER = 12  # linux/netlink.h; the socket module does not have it
NFNLGRP_NFTABLES = 7  # linux/netfilter/nfnetlink.h: messages on all changes
# linux/netfilter/nfnetlink.h
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10
# linux/netfilter/nf_tables.h: enum nf_tables_msg_types
NFT_MSG_NEWTABLE = 0
NFTA_TABLE_NAME = 1
"""The table, in messages on tables, chains, rules, sets and elements alike."""
NFT_MSG_NEWSET, NFT_MSG_GETSET, NFT_MSG_DELSET = 9, 10, 11
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
# enum nft_set_attributes
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS = 1, 2, 3
NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN = 4, 5, 6, 7
NFTA_SET_ID, NFTA_SET_USERDATA, NFTA_SET_COUNT = 10, 13, 20
NFT_SET_MAP = 0x8
# stateful objects: enum nft_object_attributes, nft_counter_attributes; NFT_OBJECT_COUNTER
NFT_MSG_GETOBJ = 19
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFTA_COUNTER_PACKETS = 2
NFTA_SET_ELEM_EXPR, NFTA_EXPR_DATA = 7, 2
"""An element's own counter: the kernel writes one expression so, several otherwise."""
NFT_OBJECT_COUNTER = 1
# enum nft_set_elem_list_attributes, nft_set_elem_attributes, nft_data_attributes
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_DATA_VALUE = 1, 1, 2, 1

FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}  # NFPROTO_*
# libnftnl, include/libnftnl/udata.h: enum nftnl_udata_set_types
UDATA_SET_KEYBYTEORDER, UDATA_SET_DATABYTEORDER, UDATA_SET_COMMENT = 0, 1, 7
ELEMENTS_SIZE = 60 * 1024
"""Bytes of elements in one message: below the 64 KiB that an attribute can hold."""

_NFGENMSG = struct.Struct("=BBH")  # struct nfgenmsg: family, version 0, resource id


def _type(message: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | message


def head(family: str) -> bytes:
    """Struct nfgenmsg for a family of nft(8). Raises KeyError."""
    return _NFGENMSG.pack(FAMILIES[family], 0, 0)


def batch(requests: Iterable[Request]) -> list[Request]:
    """The requests between the marks of one transaction."""
    mark = _NFGENMSG.pack(0, 0, struct.unpack("=H", struct.pack(">H", NFNL_SUBSYS_NFTABLES))[0])
    return [
        Request(NFNL_MSG_BATCH_BEGIN, 0, mark),
        *requests,
        Request(NFNL_MSG_BATCH_END, 0, mark),
    ]


def _u32(kind: int, value: int) -> bytes:
    return attr(kind, value.to_bytes(4, "big"))


def new_table(family: str, table: str) -> Request:
    """Make a table, unless it is there."""
    return Request(
        _type(NFT_MSG_NEWTABLE), NLM_F_CREATE, head(family) + attr_text(NFTA_TABLE_NAME, table)
    )


def new_set(
    family: str,
    table: str,
    name: str,
    *,
    set_id: int,
    key: tuple[int, int],
    data: tuple[int, int] | None = None,
    userdata: bytes = b"",
) -> Request:
    """Make a set, or a map where `data` is given.

    `key` and `data` are (number of the data type, size in bytes); the kernel need not know the
    fields of a concatenated key, as we use no intervals (NFT_SET_CONCAT). `set_id` tells sets of
    one transaction apart; `userdata` is `set_userdata`'s.

    """
    body = [
        head(family),
        attr_text(NFTA_SET_TABLE, table),
        attr_text(NFTA_SET_NAME, name),
        _u32(NFTA_SET_FLAGS, 0 if data is None else NFT_SET_MAP),
        _u32(NFTA_SET_KEY_TYPE, key[0]),
        _u32(NFTA_SET_KEY_LEN, key[1]),
        _u32(NFTA_SET_ID, set_id),
    ]
    if data is not None:
        body += [_u32(NFTA_SET_DATA_TYPE, data[0]), _u32(NFTA_SET_DATA_LEN, data[1])]
    if userdata:
        body.append(attr(NFTA_SET_USERDATA, userdata))
    return Request(_type(NFT_MSG_NEWSET), NLM_F_CREATE | NLM_F_EXCL, b"".join(body))


def set_userdata(*, key_order: int, data_order: int, comment: str = "") -> bytes:
    """What nft(8) notes beside a set: rows of type, length (a byte each) and value.

    Without the byte orders (`hostnet.nft.datatypes.byte_order`) `nft list` prints numbers in
    the host's order backwards. Raises ValueError for a comment above 254 bytes.
    """
    text = comment.encode() + b"\0" if comment else b""
    return b"".join(
        bytes((kind, len(value))) + value
        for kind, value in (
            (UDATA_SET_KEYBYTEORDER, struct.pack("=I", key_order)),
            (UDATA_SET_DATABYTEORDER, struct.pack("=I", data_order) if data_order else b""),
            (UDATA_SET_COMMENT, text),
        )
        if value
    )


def comment_of(userdata: bytes | None) -> str:
    """The comment among a set's user data; empty when there is none."""
    position, data = 0, userdata or b""
    while position + 2 <= len(data):
        kind, length = data[position], data[position + 1]
        if kind == UDATA_SET_COMMENT:
            text = data[position + 2 : position + 2 + length]
            return text.rstrip(b"\0").decode(errors="replace")
        position += 2 + length
    return ""


def del_set(family: str, table: str, name: str) -> Request:
    """Delete a set or map with its elements; the kernel refuses (EBUSY) while a rule uses it."""
    body = head(family) + attr_text(NFTA_SET_TABLE, table) + attr_text(NFTA_SET_NAME, name)
    return Request(_type(NFT_MSG_DELSET), 0, body)


def get_sets(family: str, table: str) -> tuple[int, bytes]:
    """Message type and body of a dump of a table's sets."""
    return _type(NFT_MSG_GETSET), head(family) + attr_text(NFTA_SET_TABLE, table)


def get_set(family: str, table: str, name: str) -> Request:
    """Ask for one set, without its elements."""
    body = head(family) + attr_text(NFTA_SET_TABLE, table) + attr_text(NFTA_SET_NAME, name)
    return Request(_type(NFT_MSG_GETSET), 0, body)


def count_of(payload: bytes) -> int | None:
    """The number of elements in an answer to `get_set`; None before Linux 6.16, which lacks it."""
    count = attributes(payload, _NFGENMSG.size, len(payload)).get(NFTA_SET_COUNT)
    return int.from_bytes(count, "big") if count else None


def get_counters(family: str, table: str) -> tuple[int, bytes]:
    """Message type and body of a dump of a table's named counters."""
    body = head(family) + attr_text(NFTA_OBJ_TABLE, table)
    return _type(NFT_MSG_GETOBJ), body + _u32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER)


def get_elements(family: str, table: str, name: str) -> tuple[int, bytes]:
    """Message type and body of a dump of a set's elements."""
    return _type(NFT_MSG_GETSETELEM), _elements_head(family, table, name)


@functools.lru_cache(maxsize=64)  # an ADD makes the same few, and waits for them
def _elements_head(family: str, table: str, name: str) -> bytes:
    return (
        head(family)
        + attr_text(NFTA_SET_ELEM_LIST_TABLE, table)
        + attr_text(NFTA_SET_ELEM_LIST_SET, name)
    )


def add_elements(
    family: str, table: str, name: str, elements: Iterable[tuple[bytes, bytes]]
) -> list[Request]:
    """Add elements: (key, data) pairs of one size each; data is empty for a set.

    Without NLM_F_EXCL an element that is there with the same data stays as it is; one with
    other data is refused (EEXIST).
    """
    rows = list(elements)
    if not rows:
        return []
    before, between, after = _layout(len(rows[0][0]), len(rows[0][1]))
    packed = [before + key + between + data + after for key, data in rows]
    return _element_messages(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, table, name, packed)


def add_rows(
    family: str,
    table: str,
    name: str,
    rows: Iterable[tuple[bytes, Sequence[bytes], Sequence[bytes]]],
) -> list[Request]:
    """As `add_elements`: of each (prefix, ends, data) the keys are the prefix with each end.

    Data that many keys have are packed once.
    """
    packed: list[bytes] = []
    for prefix, ends, data in rows:
        before, between, after = _layout(len(prefix) + len(ends[0]), len(data[0]))
        start = before + prefix
        value = {one: between + one + after for one in set(data)}
        packed += [start + end + value[one] for end, one in zip(ends, data, strict=True)]
    if not packed:
        return []
    return _element_messages(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, table, name, packed)


def del_elements(family: str, table: str, name: str, keys: Iterable[bytes]) -> list[Request]:
    """Delete elements by their keys; one that is not there fails the transaction (ENOENT)."""
    rows = list(keys)
    if not rows:
        return []
    before, between, _ = _layout(len(rows[0]), 0)
    packed = [before + key + between for key in rows]
    return _element_messages(NFT_MSG_DELSETELEM, 0, family, table, name, packed)


@functools.lru_cache(maxsize=64)
def _layout(key_size: int, data_size: int) -> tuple[bytes, bytes, bytes]:
    """What stands before the key, between key and data, and after the data of an element."""
    key_pad, data_pad = -key_size & 3, -data_size & 3
    key_length = 8 + key_size
    data_length = 8 + data_size if data_size else 0
    whole = 4 + key_length + key_pad + data_length + data_pad * bool(data_size)
    before = (
        ATTRIBUTE.pack(whole, NFTA_LIST_ELEM | NLA_F_NESTED)
        + ATTRIBUTE.pack(key_length + key_pad, NFTA_SET_ELEM_KEY | NLA_F_NESTED)
        + ATTRIBUTE.pack(4 + key_size, NFTA_DATA_VALUE)
    )
    between = b"\0" * key_pad
    if data_size:
        between += ATTRIBUTE.pack(data_length + data_pad, NFTA_SET_ELEM_DATA | NLA_F_NESTED)
        between += ATTRIBUTE.pack(4 + data_size, NFTA_DATA_VALUE)
    return before, between, b"\0" * data_pad if data_size else b""


def _element_messages(
    message: int, flags: int, family: str, table: str, name: str, packed: Sequence[bytes]
) -> list[Request]:
    start = _elements_head(family, table, name)
    each = max(1, ELEMENTS_SIZE // len(packed[0]))
    return [
        Request(
            _type(message),
            flags,
            start
            + attr(
                NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, b"".join(packed[first : first + each])
            ),
        )
        for first in range(0, len(packed), each)
    ]


def parse_elements(
    data: bytes, position: int, end: int, key_size: int, data_size: int
) -> Iterator[tuple[bytes, bytes]]:
    """The (key, data) pairs in the payload of NFTA_SET_ELEM_LIST_ELEMENTS.

    Elements without more attributes (timeouts, comments) have one length, and are read by one
    `iter_unpack`; others are walked.
    """
    before, between, after = _layout(key_size, data_size)
    stride = len(before) + key_size + len(between) + data_size + len(after)
    row = struct.Struct(f"={len(before)}s{key_size}s{len(between)}x{data_size}s{len(after)}x")
    whole = memoryview(data)[position:end]
    if len(whole) % stride == 0:
        rows = list(row.iter_unpack(whole))
        # The kernel sets NLA_F_NESTED here or not by version: the lengths must be the same.
        lengths = before[0:2], before[4:6], before[8:10]
        if all((b[0:2], b[4:6], b[8:10]) == lengths for b, _, _ in rows):
            for _, key, value in rows:
                yield key, value
            return
    yield from _walk_elements(data, position, end, key_size, data_size)


def _walk_elements(
    data: bytes, position: int, end: int, key_size: int, data_size: int
) -> Iterator[tuple[bytes, bytes]]:
    while position + 4 <= end:
        length, _ = ATTRIBUTE.unpack_from(data, position)
        if length < 4:
            return
        found = {NFTA_SET_ELEM_KEY: b"", NFTA_SET_ELEM_DATA: b""}
        inner, inner_end = position + 4, position + length
        while inner + 8 <= inner_end:
            size, kind = ATTRIBUTE.unpack_from(data, inner)
            if size < 4:
                break
            if kind & ~NLA_F_NESTED in found:
                found[kind & ~NLA_F_NESTED] = data[inner + 8 : inner + size]
            inner += (size + 3) & ~3
        key = found[NFTA_SET_ELEM_KEY][:key_size]
        if len(key) == key_size:
            yield key, found[NFTA_SET_ELEM_DATA][:data_size]
        position += (length + 3) & ~3
