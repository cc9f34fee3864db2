# SPDX-License-Identifier: Apache-2.0
"""nftables tables of ours, each replaced in one transaction.

A table's name is its mark: the kernel keeps no owner for one. What an earlier version of flatmesh
left under the name is so taken over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.watcher import WatchView
from hostnet.netlink.attributes import attributes, text_of
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket
from hostnet.nft import tables
from hostnet.nft.messages import (
    FAMILIES,
    NETLINK_NETFILTER,
    NFNL_SUBSYS_NFTABLES,
    NFNLGRP_NFTABLES,
    NFTA_TABLE_NAME,
)
from hostnet.nft.sets import NftSet
from hostnet.ownership import Mark
from hostnet.state import HostState


@dataclass(frozen=True, slots=True)
class NftTable:
    """One nftables table that is wholly ours, replaced in one transaction.

    `body` is what stands between the braces of `table FAMILY NAME { ... }` in nft(8) syntax.
    """

    family: str
    name: str
    body: str

    @property
    def key(self) -> tuple[str, str]:
        """Family and name."""
        return (self.family, self.name)


class NftTableKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "table"
    types = (NftTable,)
    deletes_last = True
    """What masquerades goes last: devices and routes may still carry packets before."""

    def read(self, view: KernelView, wanted: HostState) -> Iterable[NftTable]:
        """The wanted tables and those of our names.

        A table that is as wanted is the wanted value, any other has nft's words.
        """
        by_key = {one.key: one for one in wanted.of(NftTable)}
        keys = by_key.keys() | set(view.mark.tables)
        # a table with sets among the wanted values declares none in its text
        textual = by_key.keys() - {one.key[:2] for one in wanted.of(NftSet)}
        for (family, name), body in tables.dump(keys, view.netns_fd, textual).items():
            sets = sorted(one for one in wanted.of(NftSet) if one.key[:2] == (family, name))
            text = tables.without_sets(body, {one.name for one in sets})
            mine = by_key.get((family, name))
            if mine is not None and _normal_form(mine, sets) == text:
                yield mine
            else:
                yield NftTable(family, name, text)

    def diff(self, context: DiffContext) -> PlanPart:
        """Wrong ones are replaced whole."""
        desired, actual = context.desired.of(NftTable), context.actual.of(NftTable)
        wanted = {one.key for one in desired}
        keep = {(one.table, one.name) for one in context.desired.of(NftSet)}
        gone = [one for one in actual if one.key not in wanted]
        return PlanPart(
            put=step(self, "put", sorted(desired - actual, key=_key), keep),
            delete=step(self, "delete", sorted(gone, key=_key)),
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write each."""
        failures = []
        for one in step.objects:
            try:
                if step.verb == "delete":
                    tables.delete_table(one.family, one.name, view.netns_fd)
                else:
                    keep = {name for table, name in step.data if table == one.name}
                    tables.replace_table(one.family, one.name, one.body, view.netns_fd, keep)
            except (tables.NftError, OSError) as error:
                what = "delete" if step.verb == "delete" else "replace"
                failures.append(Failure(f"nft {what} table {one.family} {one.name}", str(error)))
        return failures

    def watcher(self, mark: Mark) -> NftTableWatcher | None:
        """Tells that one was changed; nothing for an owner without tables."""
        return NftTableWatcher() if mark.tables else None

    def line(self, verb: str, one: NftTable) -> str:
        """The table on one line."""
        if verb == "delete":
            return f"nft delete table {one.family} {one.name}"
        return tables.replacement_line(one.family, one.name, one.body)


def _normal_form(table: NftTable, sets: Iterable[NftSet]) -> str:
    declarations = tuple(one.line().removeprefix("nft ") for one in sets)
    text = tables.normal_form(table.family, table.name, table.body, declarations)
    return tables.without_sets(text, {one.name for one in sets})


def _key(one: NftTable) -> tuple[str, str]:
    return one.key


class NftTableWatcher:
    """Of tables with all that is in them. Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_NETFILTER
    groups = (NFNLGRP_NFTABLES,)
    messages = range(NFNL_SUBSYS_NFTABLES << 8, NFNL_SUBSYS_NFTABLES + 1 << 8)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Tables of ours."""
        del message
        data, begin, end = part
        name = text_of(attributes(data, begin + 4, end).get(NFTA_TABLE_NAME))
        ours = any(
            FAMILIES[family] == data[begin] and mine == name for family, mine in view.mark.tables
        )
        return f"nftables table {name} changed" if ours else None

    def deletion(self, one: object) -> None:
        """A table's name does for all of it."""

    def writing(self, one: object) -> None:
        """Likewise."""
