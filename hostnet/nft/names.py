# SPDX-License-Identifier: Apache-2.0
"""The names of tables, and of what a table holds, asked of the kernel itself.

libnftables reads every element of every set before it prints the names of tables, also with
`--terse`: with 100,000 elements that takes seconds. Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from hostnet.netlink.attributes import attributes
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.nft import messages
from hostnet.nft.messages import FAMILIES

NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN = 1, 4
NFTA_TABLE, NFTA_CHAIN_NAME = 1, 3
NFT_SET_ANONYMOUS = 0x1
_NAMES = {number: name for name, number in FAMILIES.items()}
_ANY = b"\0" * 4
"""struct nfgenmsg of a dump of all families (linux/netfilter/nfnetlink.h)."""
_SUBSYSTEM = messages.NFNL_SUBSYS_NFTABLES << 8


def table_names() -> set[tuple[str, str]]:
    """Family and name of all tables of the caller's namespace. Raises NetlinkError, OSError."""
    return {
        (family, _text(found.get(NFTA_TABLE)))
        for family, found in _objects(NFT_MSG_GETTABLE | _SUBSYSTEM, _ANY, "nft list tables")
    }


def names_in_table(family: str, table: str) -> list[tuple[str, str]]:
    """Kind (chain, set, map, counter) and name of what a table holds; empty where it is missing.

    Anonymous sets, which belong to a rule, are left out. Raises NetlinkError, OSError.
    """
    names: list[tuple[str, str]] = []
    for number, found in _objects(NFT_MSG_GETCHAIN | _SUBSYSTEM, _ANY, "nft list chains"):
        if (number, _text(found.get(NFTA_TABLE))) == (family, table):
            names.append(("chain", _text(found.get(NFTA_CHAIN_NAME))))
    for _, found in _objects(*messages.get_sets(family, table), "nft list sets"):
        flags = int.from_bytes(found.get(messages.NFTA_SET_FLAGS, b""), "big")
        if not flags & NFT_SET_ANONYMOUS:
            kind = "map" if flags & messages.NFT_SET_MAP else "set"
            names.append((kind, _text(found.get(messages.NFTA_SET_NAME))))
    for _, found in _objects(*messages.get_counters(family, table), "nft list counters"):
        names.append(("counter", _text(found.get(messages.NFTA_OBJ_NAME))))
    return names


def _objects(kind: int, body: bytes, operation: str) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Each object's family and attributes."""
    with NetlinkSocket(protocol=messages.NETLINK_NETFILTER) as sock:
        try:
            parts = sock.dump(kind, body, operation)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return
            raise
    for data, begin, end in parts:
        family = _NAMES.get(data[begin])
        if family is not None:
            yield family, attributes(data, begin + 4, end)


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")
