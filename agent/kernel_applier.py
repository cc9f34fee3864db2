# SPDX-License-Identifier: Apache-2.0
"""Applies the part of the kernel's state that one owner has, and tells what others do to it.

Each owner (`hostnet.ownership`) has marks of its own, so that a sweep takes away only what that
owner made. Joining all desired states in one applier was tried before: then nobody could apply
anything while one part had no desired state yet, or its tables could not be read.

The kernel's socket is used by the controller's worker thread. The monitor is used by the event
loop while no apply runs, and by the worker at the end of one: only the apply knows which deletions
of neighbours and FDB entries are its own, as the kernel's messages on those have no sender.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from agent.controller import Report
from hostnet.apply import Outcome, plan_full, reconcile, unannounced
from hostnet.events import Monitor
from hostnet.kernel import Kernel
from hostnet.netns import NetnsRef
from hostnet.ownership import Mark
from hostnet.state import HostState

KernelChange = tuple[HostState | None, HostState]
"""(before, after): parts of what was applied last and what they become; before None: `after` is
the whole desired state, and the kernel's tables are read and compared with it."""


class KernelEvents(Protocol):
    """What the loop follows: a netlink socket with messages on changes by others."""

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""

    def drain(self) -> list[str] | None:
        """What others have changed, a few words each; None: ask again in a moment. Never waits."""


class StateApplier(Protocol):
    """What a controller of kernel state needs: `KernelApplier`, without its monitor."""

    def apply(self, change: KernelChange) -> Report:
        """Make the change. Raises OSError or FlatmeshError when tables can't be read."""

    def plan(self, desired: HostState) -> list[str]:
        """The changes that `apply` would make, as commands."""

    def cleanup(self, log: Callable[[str], None]) -> list[str]:
        """Remove all that has the owner's marks; the problems, a line each."""

    def close(self) -> None:
        """Close the sockets; again is harmless."""


class KernelApplier:
    """One owner's part of one namespace's kernel tables. Close it when done."""

    def __init__(self, owner: Mark, netns: NetnsRef | None = None) -> None:
        """Open it. Raises NetnsError, OSError."""
        self._kernel = Kernel(netns, mark=owner)
        try:
            kinds = self._kernel.kinds
            self.monitor = Monitor(netns, mark=owner, ignore=[self.port], kinds=kinds)
        except BaseException:
            self._kernel.close()
            raise
        self._monitor_in_use = threading.Lock()
        self._wanted = HostState()
        """As of the last apply of the whole."""

    @property
    def port(self) -> int:
        """The netlink port that our changes come from."""
        return self._kernel.socket.port

    @property
    def element_port(self) -> int:
        """The netlink port that our elements of nftables' sets come from. Raises OSError."""
        return self._kernel.element_port

    def apply(self, change: KernelChange) -> Report:
        """Make the change. Raises NetlinkError, OSError or NftError when tables can't be read.

        A change of nothing is an occasion to look at what the kernel tells nobody of.
        """
        before, after = change
        if before is None:
            self._wanted = after
        elif not before and not after:
            return Report(again=unannounced(self._wanted, self._kernel))
        with self._monitor_in_use:
            outcome = reconcile(after, self._kernel, delta_of=before)
            self.monitor.ignore(*self._kernel.view.ports)
            again = self.monitor.settle(outcome.plans)
        return _report(outcome, again)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self.monitor.fileno()

    def drain(self) -> list[str] | None:
        """What others have changed, a few words each; None while an apply runs. Never waits."""
        if not self._monitor_in_use.acquire(blocking=False):
            return None
        try:
            return self.monitor.drain()
        finally:
            self._monitor_in_use.release()

    def plan(self, desired: HostState) -> list[str]:
        """The changes that `apply` would make."""
        return plan_full(desired, self._kernel).lines()

    def cleanup(self, log: Callable[[str], None]) -> list[str]:
        """Remove all that has the owner's marks; the problems, a line each."""
        outcome = reconcile(HostState(), self._kernel)
        for line in outcome.lines():
            log(line)
        return [str(failure) for failure in outcome.failures]

    def close(self) -> None:
        """Close the sockets; again is harmless."""
        self.monitor.close()
        self._kernel.close()


def _report(outcome: Outcome, again: list[str]) -> Report:
    failures = [str(failure) for failure in outcome.failures]
    return Report(outcome.changes, outcome.lines, failures, again)
