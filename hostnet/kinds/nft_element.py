# SPDX-License-Identifier: Apache-2.0
"""Elements of nftables sets and maps: the difference is sent, packed, in one transaction."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, ordered, step
from hostnet.netlink.socket import NetlinkError
from hostnet.nft.sets import NftElement, NftSet, SetSocket, change_elements
from hostnet.nft.slots import NftSlots, add_slots
from hostnet.ownership import Mark
from hostnet.state import HostState

MAX_TRANSACTION = 16_000
"""Elements; the kernel's time for one transaction grows with the square of their number."""


class NftElementKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "element"
    types = (NftElement, NftSlots)
    deletes_last = False

    def __init__(self) -> None:
        self._sets: SetSocket | None = None
        """Kept open: opening a socket costs more than changing an element."""

    def port(self, view: KernelView) -> int:
        """The netlink port that elements are changed from. Raises OSError."""
        return self._socket(view).port

    def _socket(self, view: KernelView) -> SetSocket:
        if self._sets is None:
            self._sets = SetSocket(view.netns_fd)
            view.ports.add(self._sets.port)
        return self._sets

    def read(self, view: KernelView, wanted: HostState) -> Iterable[NftElement]:
        """All elements of the wanted sets."""
        for one in sorted(wanted.of(NftSet)):
            yield from self._socket(view).elements(one)

    def diff(self, context: DiffContext) -> PlanPart:
        """One step: elements to delete and to add go in one transaction."""
        desired, actual = context.desired.of(NftElement), context.actual.of(NftElement)
        slots = context.desired.of(NftSlots)
        if not desired and not actual and not slots:
            return PlanPart()
        declared = context.desired.of(NftSet)
        if context.whole and declared != context.actual.of(NftSet):
            kept = declared & context.actual.of(NftSet)
            actual = frozenset(one for one in actual if one.set in kept)
        filled = {one.set for one in actual} if slots else set()
        desired = desired.union(*(one.elements() for one in slots if one.set in filled))
        new: list[NftElement | NftSlots] = ordered(desired - actual)
        new += ordered(one for one in slots if one.set not in filled)
        gone = ordered(actual - desired)
        return PlanPart(put=step(self, "put", new, gone) if new else step(self, "delete", gone))

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Change them in one transaction, or in several of `MAX_TRANSACTION` each.

        An element that changes its data is deleted and added in the same one. Raises nothing: a
        refusal is one failure.
        """
        gone = step.objects if step.verb == "delete" else step.data
        new = [] if step.verb == "delete" else step.objects
        if len(gone) + sum(map(_size, new)) <= MAX_TRANSACTION:
            return self._change(gone, new, view)
        failures, old = [], {one.key: one for one in gone}
        for some in _chunks(new):
            replaced = [old.pop(one.key) for one in some if one.key in old]
            failures += self._change(replaced, some, view)
        left = list(old.values())
        for first in range(0, len(left), MAX_TRANSACTION):
            failures += self._change(left[first : first + MAX_TRANSACTION], [], view)
        return failures

    def _change(
        self, gone: Sequence[NftElement], new: Sequence[NftElement | NftSlots], view: KernelView
    ) -> list[Failure]:
        slots = [one for one in new if isinstance(one, NftSlots)]
        single = [one for one in new if isinstance(one, NftElement)]
        try:
            self._socket(view).apply([*change_elements(gone, single), *add_slots(slots)])
        except NetlinkError as error:
            if error.errno == errno.ENOENT and not new:
                return []  # gone already
            some = (list(new) or list(gone))[0]
            return [Failure(self.line("delete" if not new else "put", some), error.reason)]
        return []

    def watcher(self, mark: Mark) -> None:
        """Messages name the table: its watcher does."""

    def line(self, verb: str, one: NftElement | NftSlots) -> str:
        """`nft add element inet flatmesh NAME { KEY : DATA }`."""
        return one.line("delete" if verb == "delete" else "add")


def _size(one: NftElement | NftSlots) -> int:
    return len(one.data) if isinstance(one, NftSlots) else 1


def _chunks(objects: Iterable[NftElement | NftSlots]) -> Iterator[list[NftElement | NftSlots]]:
    """Parts of `MAX_TRANSACTION` elements at most."""
    found: list[NftElement | NftSlots] = []
    count = 0
    for one in objects:
        for part in one.parts(MAX_TRANSACTION) if isinstance(one, NftSlots) else (one,):
            if count + _size(part) > MAX_TRANSACTION:
                yield found
                found, count = [], 0
            found.append(part)
            count += _size(part)
    if found:
        yield found
