"""Sysctls of a network namespace.

/proc/sys/net shows the namespace of the thread that opens a file below it, so files are
opened in a thread inside the namespace; what is below other directories is the host's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.netns import NetnsRef, run_in
from hostnet.ownership import Mark
from hostnet.state import HostState

ROOT = Path("/proc/sys")


class Sysctl(NamedTuple):
    """A sysctl in this network namespace, by its path below /proc/sys."""

    path: str
    """`net/ipv4/ip_forward`."""
    value: str

    @property
    def key(self) -> str:
        """The path."""
        return self.path


def read(wanted: Iterable[Sysctl], netns: NetnsRef | None = None) -> list[Sysctl]:
    """The values at the paths of `wanted`; paths that aren't there are left out."""
    paths = [one.path for one in wanted]
    return run_in(netns, lambda: _read(paths)) if paths else []


def write(wanted: Iterable[Sysctl], netns: NetnsRef | None = None) -> dict[Sysctl, OSError]:
    """Set all, past errors; returns the errors."""
    values = list(wanted)
    return run_in(netns, lambda: _write(values)) if values else {}


def line(one: Sysctl) -> str:
    """`sysctl -w net.ipv4.ip_forward=1`; a path keeps its slashes where a name has dots."""
    path = one.path if "." in one.path else one.path.replace("/", ".")
    return f"sysctl -w {path}={one.value}"


def _read(paths: list[str]) -> list[Sysctl]:
    found = []
    for path in paths:
        try:
            text = (ROOT / path).read_text()
        except OSError:
            continue
        found.append(Sysctl(path, " ".join(text.split())))
    return found


def _write(values: list[Sysctl]) -> dict[Sysctl, OSError]:
    errors = {}
    for one in values:
        try:
            (ROOT / one.path).write_text(one.value)
        except OSError as error:
            errors[one] = error
    return errors


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
