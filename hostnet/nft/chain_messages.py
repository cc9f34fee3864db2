# SPDX-License-Identifier: Apache-2.0
"""nf_tables messages on chains, rules, counters and maps of verdicts.

Source: linux/netfilter/nf_tables.h. `hostnet.nft.messages` has those on sets and elements.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hostnet.netlink.attributes import (
    NLA_F_NESTED,
    attr,
    attr_nest,
    attr_text,
    attributes,
    nested,
    text_of,
)
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Request
from hostnet.nft.datatypes import number_of, size_of
from hostnet.nft.expressions import CODES, NftRule, verdict_data
from hostnet.nft.messages import (
    ELEMENTS_SIZE,
    NFNL_SUBSYS_NFTABLES,
    NFT_MSG_DELSETELEM,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFT_SET_MAP,
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    head,
    set_userdata,
)

NFT_MSG_DELTABLE = 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = 3, 4, 5
NFT_MSG_NEWRULE, NFT_MSG_GETRULE, NFT_MSG_DELRULE = 6, 7, 8
NFT_MSG_NEWOBJ = 18
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 1, 3, 4, 5
NFTA_CHAIN_TYPE = 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 4, 7
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFT_OBJECT_COUNTER, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS = 1, 1, 2
NF_INET_FORWARD, NF_ACCEPT = 2, 1
NFT_DATA_VERDICT = 0xFFFFFF00
NLM_F_APPEND = 0x800
UDATA_RULE_COMMENT = 0  # libnftnl, include/libnftnl/udata.h
_NAMES = {code: name for name, code in CODES.items()}


class Verdict(NamedTuple):
    """What a map says of an address: `accept`, or `goto` a chain."""

    code: str
    chain: str = ""


def _type(message: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | message


def _be(value: int) -> bytes:
    return value.to_bytes(4, "big")


def delete_table(family: str, table: str) -> Request:
    """Delete a table with all that is in it."""
    return Request(_type(NFT_MSG_DELTABLE), 0, head(family) + attr_text(NFTA_TABLE_NAME, table))


def new_chain(family: str, table: str, name: str, priority: int | None = None) -> Request:
    """Make a chain unless it is there; with a priority, on the hook `forward`."""
    body = head(family) + attr_text(NFTA_CHAIN_TABLE, table) + attr_text(NFTA_CHAIN_NAME, name)
    if priority is not None:
        body += attr_nest(
            NFTA_CHAIN_HOOK,
            attr(NFTA_HOOK_HOOKNUM, _be(NF_INET_FORWARD)),
            attr(NFTA_HOOK_PRIORITY, _be(priority)),
        )
        body += attr(NFTA_CHAIN_POLICY, _be(NF_ACCEPT)) + attr_text(NFTA_CHAIN_TYPE, "filter")
    return Request(_type(NFT_MSG_NEWCHAIN), NLM_F_CREATE, body)


def delete_chain(family: str, table: str, name: str) -> Request:
    """Delete a chain that no rule and no element names."""
    body = head(family) + attr_text(NFTA_CHAIN_TABLE, table) + attr_text(NFTA_CHAIN_NAME, name)
    return Request(_type(NFT_MSG_DELCHAIN), 0, body)


def flush_chain(family: str, table: str, name: str) -> Request:
    """Delete all rules of a chain."""
    body = head(family) + attr_text(NFTA_RULE_TABLE, table) + attr_text(NFTA_RULE_CHAIN, name)
    return Request(_type(NFT_MSG_DELRULE), 0, body)


def new_rule(family: str, table: str, chain: str, rule: NftRule) -> Request:
    """Add a rule at the end of a chain, with its digest as comment."""
    comment = rule.digest.encode() + b"\0"
    body = (
        head(family)
        + attr_text(NFTA_RULE_TABLE, table)
        + attr_text(NFTA_RULE_CHAIN, chain)
        + attr(NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, rule.packed)
        + attr(NFTA_RULE_USERDATA, bytes((UDATA_RULE_COMMENT, len(comment))) + comment)
    )
    return Request(_type(NFT_MSG_NEWRULE), NLM_F_CREATE | NLM_F_APPEND, body)


def new_counter(family: str, table: str, name: str) -> Request:
    """Make a named counter unless it is there."""
    zero = bytes(8)
    body = (
        head(family)
        + attr_text(NFTA_OBJ_TABLE, table)
        + attr_text(NFTA_OBJ_NAME, name)
        + attr(NFTA_OBJ_TYPE, _be(NFT_OBJECT_COUNTER))
        + attr_nest(NFTA_OBJ_DATA, attr(NFTA_COUNTER_BYTES, zero), attr(NFTA_COUNTER_PACKETS, zero))
    )
    return Request(_type(NFT_MSG_NEWOBJ), NLM_F_CREATE, body)


def new_verdict_map(family: str, table: str, name: str, key: str, *, set_id: int) -> Request:
    """Make a map from values of one type to verdicts."""
    body = (
        head(family)
        + attr_text(1, table)
        + attr_text(2, name)
        + attr(3, _be(NFT_SET_MAP))
        + attr(4, _be(number_of((key,))))
        + attr(5, _be(size_of((key,))))
        + attr(6, _be(NFT_DATA_VERDICT))
        + attr(10, _be(set_id))
        + attr(13, set_userdata(key_order=2, data_order=0))
    )
    return Request(_type(NFT_MSG_NEWSET), NLM_F_CREATE | NLM_F_EXCL, body)


def add_verdicts(
    family: str, table: str, name: str, rows: Iterable[tuple[bytes, Verdict]]
) -> Iterator[Request]:
    """Add elements to a map of verdicts."""
    elements = [
        attr_nest(
            NFTA_LIST_ELEM,
            attr_nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)),
            verdict_data(NFTA_SET_ELEM_DATA, *verdict),
        )
        for key, verdict in rows
    ]
    yield from _elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, table, name, elements)


def delete_verdicts(family: str, table: str, name: str, keys: Iterable[bytes]) -> Iterator[Request]:
    """Delete elements of a map of verdicts."""
    elements = [
        attr_nest(NFTA_LIST_ELEM, attr_nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)))
        for key in keys
    ]
    yield from _elements(NFT_MSG_DELSETELEM, 0, family, table, name, elements)


def _elements(
    message: int, flags: int, family: str, table: str, name: str, elements: list[bytes]
) -> Iterator[Request]:
    start = (
        head(family)
        + attr_text(NFTA_SET_ELEM_LIST_TABLE, table)
        + attr_text(NFTA_SET_ELEM_LIST_SET, name)
    )
    each = 200
    assert all(len(one) * each < ELEMENTS_SIZE for one in elements[:1])  # noqa: S101
    for first in range(0, len(elements), each):
        some = b"".join(elements[first : first + each])
        body = start + attr(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, some)
        yield Request(_type(message), flags, body)


# -- dumps -----------------------------------------------------------------------------------


def get_chains(family: str) -> tuple[int, bytes]:
    """Message type and body of a dump of a family's chains."""
    return _type(NFT_MSG_GETCHAIN), head(family)


def get_rules(family: str, table: str) -> tuple[int, bytes]:
    """Message type and body of a dump of a table's rules."""
    return _type(NFT_MSG_GETRULE), head(family) + attr_text(NFTA_RULE_TABLE, table)


def parse_chain(part: Part) -> tuple[str, str, int | None]:
    """Table, name, and the priority on the hook `forward`; -1 for a chain on another hook."""
    data, begin, end = part
    found = attributes(data, begin + 4, end)
    priority: int | None = None
    if NFTA_CHAIN_HOOK in found:
        hook = nested(found[NFTA_CHAIN_HOOK])
        right = int.from_bytes(hook.get(NFTA_HOOK_HOOKNUM, b""), "big") == NF_INET_FORWARD
        right &= found.get(NFTA_CHAIN_POLICY) == _be(NF_ACCEPT)
        priority = int.from_bytes(hook.get(NFTA_HOOK_PRIORITY, b""), "big") if right else -1
    return text_of(found.get(NFTA_CHAIN_TABLE)), text_of(found.get(NFTA_CHAIN_NAME)), priority


def parse_rule(part: Part) -> tuple[str, str, str]:
    """Table, chain, and the digest in the comment; empty for a rule without one."""
    data, begin, end = part
    found = attributes(data, begin + 4, end)
    userdata = found.get(NFTA_RULE_USERDATA, b"")
    digest = ""
    if len(userdata) > 2 and userdata[0] == UDATA_RULE_COMMENT:
        digest = userdata[2 : 2 + userdata[1]].rstrip(b"\0").decode(errors="replace")
    return text_of(found.get(NFTA_RULE_TABLE)), text_of(found.get(NFTA_RULE_CHAIN)), digest


def parse_verdicts(part: Part) -> Iterator[tuple[bytes, Verdict]]:
    """The elements of a map of verdicts."""
    data, begin, end = part
    listed = attributes(data, begin + 4, end).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    position = 0
    while position + 4 <= len(listed):
        length = int.from_bytes(listed[position : position + 2], sys.byteorder)
        if length < 4:
            return
        one = nested(listed[position + 4 : position + length])
        key = nested(one.get(NFTA_SET_ELEM_KEY, b"")).get(NFTA_DATA_VALUE, b"")
        said = nested(nested(one.get(NFTA_SET_ELEM_DATA, b"")).get(2, b""))
        code = int.from_bytes(said.get(1, b""), "big", signed=True)
        yield key, Verdict(_NAMES.get(code, str(code)), text_of(said.get(2)))
        position += (length + 3) & ~3
