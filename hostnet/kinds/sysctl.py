"""Sysctls as a kind of object; reading and writing them is in `hostnet.sysctl`."""

from __future__ import annotations

from collections.abc import Iterable

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.ownership import Mark
from hostnet.state import HostState
from hostnet.sysctl import Sysctl, line, read, write


class SysctlKind:
    """Sysctls: only those that are wanted are looked at, and none is ever taken back.

    Fits `hostnet.kinds.kind.Kind`.
    """

    name = "sysctl"
    types = (Sysctl,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Sysctl]:
        """The values at the wanted paths."""
        return read(wanted.of(Sysctl), view.netns_fd)

    def diff(self, context: DiffContext) -> PlanPart:
        """Those of the host at first; those of a device that is made when it is there."""
        changed = sorted(context.desired.of(Sysctl) - context.actual.of(Sysctl))
        later = [one for one in changed if not context.made.isdisjoint(one.path.split("/"))]
        now = [one for one in changed if one not in later]
        return PlanPart(first=step(self, "put", now), put=step(self, "put", later))

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""
        errors = write(step.objects, view.netns_fd)
        return [Failure(line(one), error.strerror or str(error)) for one, error in errors.items()]

    def watcher(self, mark: Mark) -> None:
        """The kernel sends no messages on them."""

    def line(self, verb: str, one: Sysctl) -> str:
        """`sysctl -w net.ipv4.ip_forward=1`."""
        del verb
        return line(one)
