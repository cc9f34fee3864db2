# SPDX-License-Identifier: Apache-2.0
"""Ranges of keys, and the comparisons that transactions begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etcd import etcd_pb2 as pb


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a range, so that no answer is larger than a network likes."""

    limit: int
    """Keys at most."""
    after: str = ""
    """The key that the page before ended with."""
    revision: int = 0
    """All pages are read as of this revision; 0: now."""


def prefix_end(prefix: str) -> bytes:
    """The key after the last one that begins with `prefix` (etcd's range_end)."""
    data = bytearray(prefix.encode())
    while data and data[-1] == 0xFF:
        data.pop()
    if not data:
        return b"\0"  # etcd's "to the end of all keys"
    data[-1] += 1
    return bytes(data)


def keys_below(prefix: str, *, keys_only: bool, page: Page | None = None) -> pb.RangeRequest:
    """A request for all keys that begin with `prefix`, or for a page of them."""
    request = pb.RangeRequest(
        key=prefix.encode(), range_end=prefix_end(prefix), keys_only=keys_only
    )
    if page is not None:
        request.limit, request.revision = page.limit, page.revision
        if page.after:
            request.key = page.after.encode() + b"\0"
    return request


def keys_around(prefix: str, left_out: Sequence[str], *, keys_only: bool) -> pb.TxnRequest:
    """A request for all keys below `prefix` but those below the prefixes `left_out` within it."""
    begin, ranges = prefix.encode(), []
    for gap in sorted(left_out):
        ranges.append((begin, gap.encode()))
        begin = prefix_end(gap)
    ranges.append((begin, prefix_end(prefix)))
    return pb.TxnRequest(
        success=[
            pb.RequestOp(
                request_range=pb.RangeRequest(key=first, range_end=end, keys_only=keys_only)
            )
            for first, end in ranges
        ]
    )


def unchanged(key: str, mod_revision: int) -> pb.Compare:
    """True where a key has this mod_revision; 0: where there is no such key."""
    if mod_revision == 0:
        return pb.Compare(
            result=pb.Compare.EQUAL, target=pb.Compare.VERSION, key=key.encode(), version=0
        )
    return pb.Compare(
        result=pb.Compare.EQUAL,
        target=pb.Compare.MOD,
        key=key.encode(),
        mod_revision=mod_revision,
    )


def exists(key: str) -> pb.Compare:
    """True where there is such a key."""
    return pb.Compare(
        result=pb.Compare.NOT_EQUAL, target=pb.Compare.VERSION, key=key.encode(), version=0
    )


def none_below(prefix: str) -> pb.Compare:
    """True where no key begins with `prefix`: a range's compare holds for each of its keys."""
    return pb.Compare(
        result=pb.Compare.EQUAL,
        target=pb.Compare.VERSION,
        key=prefix.encode(),
        range_end=prefix_end(prefix),
        version=0,
    )
