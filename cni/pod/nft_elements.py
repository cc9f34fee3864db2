# SPDX-License-Identifier: Apache-2.0
"""Adds and deletes elements of the pods' nftables tables, which are made when they are needed.

The modules of nftables are imported inside the functions: a call that needs none of them, in a
process of its own, would pay for them.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cni.errors import NETWORK_FAILURE, CniError
from hostnet.netlink.socket import NetlinkError

if TYPE_CHECKING:
    from hostnet.nft.sets import NftElement


def add_elements(elements: Sequence[NftElement], body: str) -> None:
    """Add elements of one table; where it is missing, make it with this body and try again.

    Raises CniError (100), NetlinkError.
    """
    from hostnet.nft.sets import SetSocket, change_elements  # noqa: PLC0415

    requests = list(change_elements((), elements))
    with SetSocket() as sets:
        try:
            sets.apply(requests)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            make_table(elements[0].set.family, elements[0].set.table, body)
            sets.apply(requests)


def delete_elements(elements: Sequence[NftElement]) -> None:
    """Delete elements of one table; those that are not there are no error. Raises NetlinkError.

    They are added first, in the same transaction: deleting an element that does not exist would
    fail the whole transaction. So would deleting one twice.
    """
    from hostnet.nft.sets import SetSocket, change_elements  # noqa: PLC0415

    elements = list(dict.fromkeys(elements))
    if not elements:
        return
    requests = [*change_elements((), elements), *change_elements(elements, ())]
    with SetSocket() as sets:
        try:
            sets.apply(requests)
        except NetlinkError:
            if _table_exists(elements[0].set.family, elements[0].set.table):
                raise  # without the table, or without nftables in the kernel, nothing was added


def make_table(family: str, table: str, body: str) -> None:
    """Make the table in one transaction; one that another ADD made meanwhile will do.

    Raises CniError (100).
    """
    from hostnet.nft import tables  # noqa: PLC0415 - 15 ms, of the first ADD only

    if _table_exists(family, table):
        return
    try:
        # `create` fails for a table that exists, where `add` would add the rules a second time
        tables.run(f"create table {family} {table}\ntable {family} {table} {{{body}}}\n")
    except tables.NftError as error:
        if not _table_exists(family, table):
            raise CniError(NETWORK_FAILURE, str(error)) from None


def _table_exists(family: str, table: str) -> bool:
    from hostnet.nft import tables  # noqa: PLC0415 - 15 ms

    try:
        return (family, table) in tables.list_tables()
    except tables.NftError:
        return False
