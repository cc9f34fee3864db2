# SPDX-License-Identifier: Apache-2.0
"""Counters of nftables, read over netlink: a table's named ones, and those of a set's elements.

`nft list counters` gives the same as text, at the price of all rules and sets of the table, which
libnftables reads first. The messages are NFT_MSG_GETOBJ's (linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from hostnet.netlink.attributes import ATTRIBUTE, attributes, nested, text_of
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.nft import messages
from hostnet.nft.sets import NftSet


def read_counters(family: str, table: str, netns: NetnsRef | None = None) -> dict[str, int]:
    """Packets by counter name; empty for a missing table. From any thread.

    Raises NetlinkError, NetnsError, OSError.
    """
    found = {}
    request = messages.get_counters(family, table)
    for data, begin, end in _dump(request, "nft list counters", netns):
        one = attributes(data, begin + 4, end)
        if text_of(one.get(messages.NFTA_OBJ_TABLE)) == table:
            packets = _packets(one.get(messages.NFTA_OBJ_DATA, b""))
            found[text_of(one.get(messages.NFTA_OBJ_NAME))] = packets
    return found


def read_element_counters(of: NftSet, netns: NetnsRef | None = None) -> dict[bytes, int]:
    """Packets by the element's key, of a set with `counter`; empty for a missing set.

    From any thread. Raises NetlinkError, NetnsError, OSError.
    """
    found = {}
    request = messages.get_elements(*of.key)
    for data, begin, end in _dump(request, f"nft list set {of.name}", netns):
        listed = attributes(data, begin + 4, end).get(messages.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
        for _, one in _each(listed):
            element = nested(one)
            key = element.get(messages.NFTA_SET_ELEM_KEY, b"")[4:]
            expression = element.get(messages.NFTA_SET_ELEM_EXPR, b"")
            found[key] = _packets(nested(expression).get(messages.NFTA_EXPR_DATA, b""))
    return found


def _dump(request: tuple[int, bytes], what: str, netns: NetnsRef | None) -> Sequence[Part]:
    """The parts of a dump; none where the table or the set is missing."""
    with NetlinkSocket(netns, protocol=messages.NETLINK_NETFILTER) as sock:
        try:
            return sock.dump(*request, what)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return []
            raise


def _each(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a list, which all have the same number."""
    position = 0
    while position + 4 <= len(payload):
        length, kind = ATTRIBUTE.unpack_from(payload, position)
        if length < 4:
            return
        yield kind, payload[position + 4 : position + length]
        position += (length + 3) & ~3


def _packets(counter: bytes) -> int:
    return int.from_bytes(nested(counter).get(messages.NFTA_COUNTER_PACKETS, b""), "big")
