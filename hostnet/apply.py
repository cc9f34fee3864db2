# SPDX-License-Identifier: Apache-2.0
"""Do a plan, and reconcile: make this namespace agree with a desired state.

Theory of operation
-------------------
`reconcile` is the one call for start, event, repair and shutdown: dump, diff, apply. Where
the caller knows the state before (`delta_of`), one changed lease at 5,000 peers costs one
lease's work and no dump. A plan is done past errors, and all of them are reported; a plan which
made or removed devices or addresses is followed by reading the tables again, as the kernel may
have taken more along with them than was named.

That a thing to delete has gone already is success.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field

from hostnet.kernel import Kernel
from hostnet.kinds.kind import Failure
from hostnet.plan import Plan, diff
from hostnet.state import HostState

__all__ = ["Failure", "Outcome", "apply", "plan_delta", "plan_full", "reconcile", "unannounced"]

ROUNDS = 3
"""Looks at the tables in one full reconcile; more means that another program undoes our changes."""
UNANNOUNCED = frozenset({"sysctl", "offload"})
"""Names of the kinds on which the kernel sends no messages, or not on all."""


@dataclass(slots=True)
class Outcome:
    """What was done, and what could not be."""

    plans: list[Plan] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Everything is as desired."""
        return not self.failures

    @property
    def changes(self) -> int:
        """How many changes were tried."""
        return sum(len(plan) for plan in self.plans)

    def lines(self) -> list[str]:
        """All changes as commands, in order."""
        return [line for plan in self.plans for line in plan.lines()]


def reconcile(desired: HostState, kernel: Kernel, *, delta_of: HostState | None = None) -> Outcome:
    """Make the kernel agree with `desired`.

    With `delta_of`, the state that was desired and reached before, only the difference
    between the two is applied, without looking at the kernel's tables. Two parts do as well
    as two whole states: pass what the changed peers add now, and what they added before.
    When such an outcome isn't `ok`, reconcile the whole state: the kernel isn't as was thought.

    Raises NetlinkError, OSError or NftError when the tables can't be read; what can't be
    changed is in the outcome.
    """
    with _no_collection():
        if delta_of is not None:
            return apply(plan_delta(desired, delta_of, kernel), kernel)
        total = Outcome()
        for _ in range(ROUNDS):
            outcome = apply(plan_full(desired, kernel), kernel)
            total.plans += outcome.plans
            total.failures = outcome.failures
            if not any(plan.disturbing for plan in outcome.plans):
                break
        return total


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away while tens of thousands of tuples are made.

    None of them is in a cycle, but each few hundred would make it search the whole heap:
    more than half of the time of a large reconcile.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def unannounced(desired: HostState, kernel: Kernel) -> list[str]:
    """What differs of that whose changes the kernel tells nobody of, as commands.

    It costs a few reads of small files. Raises OSError.
    """
    kinds = [one for one in kernel.kinds if one.name in UNANNOUNCED and kernel.mark.has(one.name)]
    wanted = desired.only(type_ for kind in kinds for type_ in kind.types)
    actual = HostState(*(list(kind.read(kernel.view, wanted)) for kind in kinds))
    return diff(wanted, actual, mark=kernel.mark, kinds=kinds).lines()


def plan_full(desired: HostState, kernel: Kernel) -> Plan:
    """What a full reconcile would do now (`--dry-run`). Raises as `reconcile` does."""
    actual = kernel.dump(desired)
    return diff(desired, actual, mark=kernel.mark, kinds=kernel.kinds)


def plan_delta(desired: HostState, before: HostState, kernel: Kernel) -> Plan:
    """The difference between two desired states, or parts of them.

    Nexthop objects that nobody needs any more stay until the next full reconcile: a part
    doesn't tell whether another route uses them.
    """
    actual = before | kernel.known()
    return diff(desired, actual, mark=kernel.mark, whole=False, kinds=kernel.kinds)


def apply(plan: Plan, kernel: Kernel) -> Outcome:
    """Do a plan, past errors."""
    failures = [Failure("conflict", line) for line in plan.conflicts]
    if plan and not kernel.view.index:
        kernel.links()
    by_name = {kind.name: kind for kind in kernel.kinds}
    for step in plan.steps:
        failures += by_name[step.kind].apply(step, kernel.view)
        if step.kind == "link" and step.verb == "delete":
            kernel.forget_devices({link.name for link in step.objects})
    return Outcome([plan] if plan else [], failures)
