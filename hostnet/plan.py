# SPDX-License-Identifier: Apache-2.0
"""From two states to the changes between them: pure, and printable.

Theory of operation
-------------------
`diff(desired, actual)` asks each kind of the table (`hostnet.kinds.table`) for its part, and joins
the parts in an order that never breaks what already works: first everything new, each thing after
what it refers to, put in place of the old where the key is the same; then the stale, in reverse.
So a peer that moves from a tunnel to a direct route is never without one. The exceptions are what
would be in the way, which each kind names (`PlanPart.first`).

Only what `actual` holds is ever deleted, and a kind reads only what is ours; what stands in the
way and isn't ours is a conflict: reported, not touched.

A plan is a list of steps, each one verb on many objects of one kind, so that 5,000 peers
are a dozen steps. `plan.lines()` prints it as commands of ip(8), bridge(8), sysctl(8), nft(8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hostnet.kinds.kind import DiffContext, Kind, Step
from hostnet.kinds.table import make_kinds
from hostnet.ownership import MARK, Mark
from hostnet.state import HostState

__all__ = ["Plan", "Step", "diff"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what stands in the way."""

    steps: list[Step] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """One line each: what is in the way, and the mend."""

    def __bool__(self) -> bool:
        return bool(self.steps or self.conflicts)

    def __len__(self) -> int:
        """The number of changes."""
        return sum(len(step.objects) for step in self.steps)

    def lines(self) -> list[str]:
        """The changes as commands, in order."""
        return [line for step in self.steps for line in step.lines()]

    @property
    def disturbing(self) -> bool:
        """Whether a change can take other objects with it: the tables are read again after."""
        return any(step.disturbs for step in self.steps)


def diff(
    desired: HostState,
    actual: HostState,
    *,
    mark: Mark = MARK,
    whole: bool = True,
    kinds: Sequence[Kind] | None = None,
) -> Plan:
    """The changes that make `actual` into `desired`.

    With `whole` off both are parts of states: what one part no longer needs and several may share
    (a nexthop object) is then kept. `kinds` are those of one `Kernel`; None: the table's.
    """
    context = DiffContext(desired, actual, mark, whole)
    all_kinds = make_kinds() if kinds is None else kinds
    parts = [(kind, kind.diff(context)) for kind in all_kinds if mark.has(kind.name)]
    last = [part for kind, part in parts if kind.deletes_last]
    others = [part for kind, part in parts if not kind.deletes_last]
    plan = Plan()
    for _, part in reversed(parts):
        plan.steps.extend(part.first)
    for _, part in parts:
        plan.steps.extend(part.put)
        plan.conflicts.extend(part.conflicts)
    for part in (*reversed(others), *reversed(last)):
        plan.steps.extend(part.delete)
    return plan
