# SPDX-License-Identifier: Apache-2.0
"""What every backend offers the daemon.

A backend is pure where it can be: leases and the underlay go in, kernel objects come out
as a `HostState`, and `hostnet` makes the kernel agree. It is split in two so that one
changed lease costs one lease's work: `base` is what the host needs whoever its peers are,
`peer` what one peer adds. The whole desired state is `base | peer(a) | peer(b) | ...`.

What has no place in kernel tables (a tunnel process, WireGuard peers, an Open vSwitch) is a
`DataPlane`: it is driven with the same arguments, just as level-triggered.

A new backend is: one module with a class that fits `Backend`, one factory and one line in
`agent.backends.BACKENDS`, one line in the lab's test matrix.

Both protocols are checked by mypy only: `agent.backends` names their types where it makes them.
Asking at run time by isinstance was tried before: a renamed method then silently switched the
repair of Open vSwitch off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from backend.arrivals import Arrivals, TunnelPort
from backend.isolation import Isolation
from backend.metric_sample import MetricSample
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes, PeerUnusableError

__all__ = ["Backend", "DataPlane", "PeerUnusableError"]


class DataPlane(Protocol):
    """The part of a backend that lives outside kernel tables.

    One worker thread at a time calls it; `problem` and `samples` may be called from any other
    meanwhile. Every call that waits for another process ends by itself within seconds, with an
    OSError.
    """

    depends_on_pods: bool
    """Whether `reconcile` has to follow when a pod comes or goes."""

    attaches_pods: bool
    """Whether it attaches pods itself, so that an ADD has to wait for its next `reconcile`."""

    keeps_state_outside: bool
    """Whether all its state is in another program, where a successor of the same backend type
    puts right what differs: a changed config then needs no `cleanup` before."""

    isolation: Isolation | None
    """What network policies let the pods that it attaches send and receive; the next `reconcile`
    makes it so. None: there are none. Set in its worker thread."""

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Have the devices that only another program can make, and that the host state refers to.

        Open vSwitch makes obr0, wireguard-go its TUN device. Called before each comparison of the
        host state with the kernel; does nothing when they are there. Raises OSError.
        """

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Make the data plane agree with the leases; returns the changes, a line each.

        Raises OSError: it can't be done now, and is tried again.
        """

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """The lines `reconcile` would return, with nothing touched (`--dry-run`)."""

    def problem(self) -> str | None:
        """Why pods can't be served now, as one line, or None when all is well."""

    def samples(self) -> list[MetricSample]:
        """What it counts itself, now; empty while it can't be asked.

        Samples of one name have the same labels.
        """

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, from any thread, when another program changed what `reconcile` made.

        Called once before the first `reconcile`; again is harmless. Nothing where netlink tells
        of every change.
        """

    def mark_dirty(self) -> None:
        """The state outside may have changed: the next `reconcile` reads all of it.

        Until then a data plane may compare with what it applied last.
        """

    def expect_drift(self) -> None:
        """The next `reconcile` also compares what nobody tells the changes of.

        Called when another program has changed devices or addresses, and every few seconds.
        """

    def close(self) -> None:
        """Close sockets, as the daemon stops; packets are still forwarded."""

    def cleanup(self) -> None:
        """Remove every trace (`flatmeshd --cleanup`)."""


class Backend(Protocol):
    """One way of carrying pod packets between hosts."""

    @property
    def name(self) -> str:
        """The `Type` in the cluster config and `BackendType` in leases."""

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """What this host publishes in its lease.

        `previous` is what the host's lease says now, so that a key or MAC which peers
        already know is kept across restarts and reboots.
        """

    def mtu(self, underlay: Underlay) -> int:
        """The MTU of pods, in bytes: the underlay's less this backend's overhead."""

    def arrivals(self) -> Arrivals:
        """How peers' packets arrive here: tunnel ports and what is checked there."""

    def encrypting_devices(self) -> Collection[str]:
        """Devices that encrypt: pods' packets to other hosts leave by these or not at all.

        Empty for a backend that does not encrypt.
        """

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """Why its data plane can't be made on this host now, as one line; None when it can.

        Asked before it takes over from another config's, whose tunnel ports `held` are. It may
        try: what it makes for that is gone when it returns. Raises OSError.
        """

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """What the host needs whoever its peers are."""

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """What one peer adds.

        Raises PeerUnusableError when the peer's lease is of another backend or lacks data.
        """

    def data_plane(self) -> DataPlane | None:
        """The part outside kernel tables, made once per daemon; None where there is none."""
