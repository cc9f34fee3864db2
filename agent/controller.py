# SPDX-License-Identifier: Apache-2.0
"""What a controller is: one part of the host that is kept as the inputs say.

A controller has three parts, and the loop (`agent.loop`) drives them:

    depends_on      which kinds of change make it dirty
    desired         pure: from the inputs to what should be there
    apply           compares that with what is there, and changes it

`desired` and `apply` run in the controller's worker thread, one call at a time; everything else
may be called from any thread meanwhile. `status` and `samples` may wait for another program: they
are asked in threads of their own (`agent.probe`).

Whatever made a controller dirty, it does the same: compute what is wanted, make it so. So a
missed, doubled or reordered event does no harm.

A new controller is: one module in `agent/controllers/`, and one line in its table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Protocol, TypeVar

from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample

Desired = TypeVar("Desired")
MAX_REASONS = 3
"""Reasons that are kept for the log."""


class Change(Flag):
    """Kinds of change that a controller can depend on.

    A change of `HostInputs` (cluster config, underlay, our own lease), the resync and a retry
    after a failure make every controller dirty.
    """

    NONE = 0
    LEASES = auto()
    """Leases came, went or changed; their keys are in `Dirty.keys`."""
    KERNEL = auto()
    """Another program changed a link, address, route, neighbour or FDB entry that may be ours."""
    NFTABLES = auto()
    """Another program changed a table of ours."""
    DATA_PLANE = auto()
    """Another program changed what a data plane made."""
    REDIRECT = auto()
    """The table that leads tunnel packets to a switch may have been changed by another program."""
    PODS = auto()
    """A pod came or went on this host."""
    FIREWALL = auto()
    """Another program changed a chain that forwarded packets pass."""
    GUARD = auto()
    """Something was taken from the table that guards what pods send."""
    POD_LINKS = auto()
    """A pod's link, or a bridge that pods are ports of, was changed by another program."""
    SERVICES = auto()
    """A service or an endpoint came, went or changed."""
    MESH = auto()
    """Another program changed what the routing mesh is made of."""
    POLICIES = auto()
    """A network policy, a pod or a label came, went or changed."""
    POLICY_TABLE = auto()
    """Another program changed the table of network policies."""
    CLOCK = auto()
    """Some seconds have passed: for what nobody tells the changes of."""


@dataclass(slots=True)
class Dirty:
    """What has happened since a controller was last applied."""

    whole: bool = False
    """Whether what is there may differ from what was applied: everything is compared then."""
    keys: set[str] = field(default_factory=set)
    """Keys of the leases that changed."""
    changes: Change = Change.NONE
    """The kinds of what has happened."""
    reasons: list[str] = field(default_factory=list)
    """A few words each, for the log."""
    waiting: list[threading.Event] = field(default_factory=list)
    """Set when the apply that follows has ended, well or not."""

    def __bool__(self) -> bool:
        return bool(self.whole or self.keys or self.reasons or self.waiting)

    def because(self, reasons: Collection[str]) -> None:
        """Add reasons, as far as there is room."""
        new = [reason for reason in reasons if reason not in self.reasons]
        self.reasons += new[: max(0, MAX_REASONS - len(self.reasons))]

    def merge(self, other: Dirty) -> None:
        """Take in what an apply that failed has left undone."""
        self.whole |= other.whole
        self.keys |= other.keys
        self.changes |= other.changes
        self.because(other.reasons)

    @property
    def check_only(self) -> bool:
        """Whether nothing has happened, as far as we were told."""
        return not self.whole and not self.keys and self.changes == Change.CLOCK


@dataclass(slots=True)
class Report:
    """What an apply did."""

    changes: int = 0
    lines: Callable[[], Sequence[str]] = tuple
    """Returns the changes as commands. Thousands take a while, and few logs want them."""
    failures: list[str] = field(default_factory=list)
    """One line for each change that could not be made; they are tried again."""
    again: list[str] = field(default_factory=list)
    """Why it must be applied again at once: another program changed something meanwhile."""


class Controller(Protocol[Desired]):
    """One part of the host. See the module's text for the threads that call it."""

    @property
    def name(self) -> str:
        """One or two words, for logs, metrics and /readyz."""

    @property
    def depends_on(self) -> Change:
        """Which changes make it dirty."""

    @property
    def rereads_on(self) -> Change:
        """Those of them after which what was applied last may be gone: `Dirty.whole`.

        After the others, `apply` may compare with what it applied last.
        """

    @property
    def after(self) -> Collection[str]:
        """Names of the controllers that must have been applied for the same `HostInputs`."""

    @property
    def preferably_after(self) -> Collection[str]:
        """Names of those that go first where they can: one that fails or hangs is left behind."""

    @property
    def required_for_pods(self) -> bool:
        """Whether pods can be served only when it has been applied once, and works."""

    @property
    def worker(self) -> str:
        """Name of its worker thread; controllers that share a resource share a thread."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> Desired:
        """What should be there; touches nothing. Raises FlatmeshError."""

    def apply(self, desired: Desired) -> Report:
        """Make it so. Raises FlatmeshError, OSError: nothing more can be done now."""

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """What `apply` would change, a line each, with nothing touched (`--dry-run`)."""

    def status(self) -> str | None:
        """Why what was applied does not work, as one line; None when it does, as far as known."""

    def samples(self) -> list[MetricSample]:
        """What it counts itself, for Prometheus."""

    def close(self) -> None:
        """Close sockets, as the daemon stops; what was applied stays.

        Called in the worker thread, and not at all when that is still busy then.
        """

    def cleanup(self) -> list[str]:
        """Remove every trace (`flatmeshd --cleanup`); the problems, a line each."""
