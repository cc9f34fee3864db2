# SPDX-License-Identifier: Apache-2.0
"""nftables sets and maps of ours: their declarations. `hostnet.kinds.nft_element` has the elements.

A set lives in a table of ours, and chains of that table's text (`hostnet.kinds.nft_table`) refer to
it by name; that the text changes leaves the set and its elements as they are.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.nft_table import NftTable
from hostnet.netlink.socket import NetlinkError, Request
from hostnet.nft import datatypes, tables
from hostnet.nft.sets import NftSet, SetSocket, add_sets, delete_sets
from hostnet.ownership import Mark
from hostnet.state import HostState


class NftSetKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "set"
    types = (NftSet,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[NftSet]:
        """Those with our mark as comment in tables of ours, and the wanted ones.

        What a table's text declares (`hostnet.kinds.nft_table`) has no such comment.
        """
        by_key = {one.key: one for one in wanted.of(NftSet)}
        tables = {one.key[:2] for one in wanted.of(NftSet)} | set(view.mark.tables)
        if not tables:
            return
        with SetSocket(view.netns_fd) as sets:
            for family, name in sorted(tables):
                for one in sets.sets(family, name):
                    mine = by_key.get(one.key)
                    if mine is not None and _same_layout(one, mine):
                        yield mine
                    elif one.comment == view.mark.alias or mine is not None:
                        yield one._replace(comment="")

    def diff(self, context: DiffContext) -> PlanPart:
        """One of another type is deleted and made anew; its elements are put again after."""
        desired, actual = context.desired.of(NftSet), context.actual.of(NftSet)
        tables = {one.key for one in context.desired.of(NftTable)}
        tables |= {one.key[:2] for one in desired}
        wanted = {one.key for one in desired}
        stale = [one for one in actual - desired if one.key in wanted]
        gone = [o for o in actual if o.key not in wanted and o.key[:2] in tables]
        return PlanPart(
            first=step(self, "delete", sorted(stale)),
            put=step(self, "put", sorted(desired - actual)),
            delete=step(self, "delete", sorted(gone) if context.whole else []),
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """All in one transaction; where it is refused, each alone."""
        by_text = [one for one in step.objects if one.needs_text and step.verb != "delete"]
        packed = [one for one in step.objects if one not in by_text]
        with SetSocket(view.netns_fd) as sets:
            try:
                sets.apply(_requests(step, packed, view))
            except NetlinkError:
                return _one_by_one(step, packed, sets, view) + _by_text(step, by_text, view)
        return _by_text(step, by_text, view)

    def watcher(self, mark: Mark) -> None:
        """Messages name the table: its watcher does."""

    def line(self, verb: str, one: NftSet) -> str:
        """`nft add map inet flatmesh NAME { type ... ; }`."""
        if verb == "delete":
            return f"nft delete {'map' if one.data else 'set'} {' '.join(one.key)}"
        return one.line()


def _same_layout(one: NftSet, other: NftSet) -> bool:
    """Whether the kernel can't tell two sets' types apart: integers of one size are alike."""
    return all(
        (datatypes.number_of(a), datatypes.size_of(a))
        == (datatypes.number_of(b), datatypes.size_of(b))
        for a, b in ((one.types, other.types), (one.data, other.data))
    )


def _requests(step: Step, sets: Iterable[NftSet], view: KernelView) -> list[Request]:
    if step.verb == "delete":
        return delete_sets(sets)
    return add_sets(one._replace(comment=view.mark.alias) for one in sets)


def _by_text(step: Step, wanted: Iterable[NftSet], view: KernelView) -> list[Failure]:
    failures = []
    for one in wanted:
        table = f"add table {one.family} {one.table}\n"
        comment = f'comment "{view.mark.alias}" ; }}'
        command = one.line().removeprefix("nft ").removesuffix("}") + comment
        try:
            tables.run(f"{table}{command}\n", view.netns_fd)
        except tables.NftError as error:
            failures.append(Failure(step.line(step.verb, one), str(error)))
    return failures


def _one_by_one(
    step: Step, some: Iterable[NftSet], sets: SetSocket, view: KernelView
) -> list[Failure]:
    failures = []
    for one in some:
        try:
            sets.apply(_requests(step, [one], view))
        except NetlinkError as error:
            if step.verb == "delete" and error.errno == errno.ENOENT:
                continue  # the new text of its table went first, and took it along
            failures.append(Failure(step.line(step.verb, one), error.reason))
    return failures
