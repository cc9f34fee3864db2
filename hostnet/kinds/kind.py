# SPDX-License-Identifier: Apache-2.0
"""What a kind of kernel object is: the protocol that every module in `hostnet.kinds` fits.

A kind knows how its values are read from the kernel, compared, written, and printed as commands.
`hostnet.plan`, `hostnet.apply` and `hostnet.kernel` walk the table of kinds
(`hostnet.kinds.table`) and know none of them by name.

`diff` and `line` are pure. `read` and `apply` talk to the kernel, and may remember what they have
read: an instance belongs to one `Kernel`, and so to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.watcher import Watcher
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import Mark
from hostnet.state import HostState, Occupant


@dataclass(slots=True)
class KernelView:
    """One namespace as its kinds see it; `hostnet.kernel.Kernel` keeps it up to date."""

    socket: NetlinkSocket
    """rtnetlink."""
    netns_fd: int
    """The namespace, open."""
    mark: Mark
    """Whose objects are looked for and written."""
    index: dict[str, int] = field(default_factory=dict)
    """Interface indexes by name, as of the last look."""
    names: dict[int, str] = field(default_factory=dict)
    links: Sequence[ActualLink] = ()
    """The devices that are named in the wanted state, or ours; as of the last dump."""
    ports: set[int] = field(default_factory=set)
    """Netlink ports of further sockets that kinds change objects with."""
    overlay: frozenset[str] = frozenset()
    """Names of our overlay devices: what is on them is ours. As of the last look."""


@dataclass(frozen=True, slots=True)
class Step:
    """One verb on many objects of one kind."""

    kind: str
    verb: str
    """`put`, `delete`, or what else the kind's `apply` understands."""
    objects: Sequence[Any]
    line: Callable[[str, Any], str]
    """The kind's."""
    data: Any = None
    """What else the kind's `apply` needs."""
    disturbs: bool = False
    """Whether it can take other objects with it: the tables are read again after it."""

    def lines(self) -> Iterator[str]:
        """Yield a command each."""
        return (self.line(self.verb, one) for one in self.objects)


@dataclass(slots=True)
class PlanPart:
    """One kind's part of a plan."""

    first: list[Step] = field(default_factory=list)
    """Before anything is put: what would be in the way, or must not wait."""
    put: list[Step] = field(default_factory=list)
    delete: list[Step] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """What can't be made, and the mend; one line each."""


@dataclass(slots=True)
class DiffContext:
    """What a kind's diff has to know of the others."""

    desired: HostState
    actual: HostState
    mark: Mark
    whole: bool = True
    """Whether both states are whole; else they are parts of one, and what one part no longer
    needs may still be needed by another."""
    made: set[str] = field(default_factory=set)
    """Devices that are wanted. Set by the kind of devices, which is the first in the table."""
    gone: set[str] = field(default_factory=set)
    """Devices that the plan deletes; what is on them vanishes with them. Set likewise."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One change that could not be made."""

    line: str
    """The change, as a command."""
    reason: str

    def __str__(self) -> str:
        return f"{self.line}: {self.reason}"


Value = TypeVar("Value")


class Kind(Protocol):
    """One kind of object."""

    @property
    def name(self) -> str:
        """One word, as in `Step.kind` and `Mark.kinds`."""

    @property
    def types(self) -> Sequence[type[Any]]:
        """The types of its values: of those that are wanted first, then those only found."""

    @property
    def deletes_last(self) -> bool:
        """Whether its deletions come after those of all other kinds, not in reverse order."""

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Any]:
        """What is there: values that are ours or wanted, and `Occupant`s of wanted keys.

        Raises OSError, NftError.
        """

    def diff(self, context: DiffContext) -> PlanPart:
        """The changes from `context.actual` to `context.desired`."""

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Do one step of a plan, past errors. That a thing to delete has gone is success."""

    def watcher(self, mark: Mark) -> Watcher | None:
        """What tells that others have changed such objects of an owner; None where nothing does."""

    def line(self, verb: str, one: Any) -> str:
        """One change as the command that an operator would type."""


def step(
    kind: Kind, verb: str, objects: Iterable[Any], data: Any = None, *, disturbs: bool = False
) -> list[Step]:
    """A step, or none where there is nothing to do."""
    found = objects if isinstance(objects, list) else list(objects)
    return [Step(kind.name, verb, found, kind.line, data, disturbs)] if found else []


SORTED_LIMIT = 256
"""Steps of no more objects are sorted, to be read; larger ones aren't, to be fast."""


def ordered(objects: Iterable[Any], key: Callable[[Any], Any] | None = None) -> list[Any]:
    """The objects as a list, sorted where they are few."""
    found = list(objects)
    if len(found) <= SORTED_LIMIT:
        found.sort(key=key)
    return found


def compare(
    desired: frozenset[Value], actual: frozenset[Value]
) -> tuple[frozenset[Value], frozenset[Value]]:
    """What is missing, and what is there but not wanted.

    Where nothing is missing (the usual case) the second set difference is not computed.
    """
    wrong = actual - desired
    if len(desired) == len(actual) - len(wrong):
        return frozenset(), wrong
    return desired - actual, wrong


def without_occupied(
    wanted: Iterable[Value], context: DiffContext, kind: type[Any]
) -> tuple[list[Value], list[str]]:
    """The wanted values whose place is free, and the conflicts of the others."""
    texts = {one.key: one.text for one in context.actual.of(Occupant) if one.type is kind}
    if not texts:
        return list(wanted), []
    free, conflicts = [], []
    for one in wanted:
        key: Any = one.key  # type: ignore[attr-defined]
        if key in texts:
            conflicts.append(texts[key])
        else:
            free.append(one)
    return free, conflicts


def diff_entries(kind: Kind, values: type[Any], context: DiffContext) -> PlanPart:
    """The plan for entries of a device's table that a write overwrites by their keys.

    A value has a `link` and a `key`. Wrong ones are overwritten, stale ones deleted; those of a
    device that goes vanish with it.
    """
    actual = context.actual.of(values)
    if context.gone:
        actual = frozenset(one for one in actual if one.link not in context.gone)
    missing, wrong = compare(context.desired.of(values), actual)
    put, conflicts = without_occupied(missing, context, values)
    replaced = {one.key for one in put} if wrong else set()
    stale = [one for one in wrong if one.key not in replaced]
    return PlanPart(
        put=step(kind, "put", ordered(put)),
        delete=step(kind, "delete", ordered(stale)),
        conflicts=conflicts,
    )
