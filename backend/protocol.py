"""What every backend offers the daemon.

A backend is pure where it can be: leases and the underlay go in, kernel objects come out
as a `HostState`, and `hostnet` makes the kernel agree. It is split in two so that one
changed lease costs one lease's work: `base` is what the host needs whoever its peers are,
`peer` what one peer adds. The whole desired state is `base | peer(a) | peer(b) | ...`.

What has no place in kernel tables (a tunnel process, WireGuard peers, an Open vSwitch) is a
`DataPlane`: it is driven with the same arguments, just as level-triggered.

A new backend is: one module with a class that fits `Backend`, one line in
`agent.backends.BACKENDS`, one line in the lab's test matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from hostnet.count import Count
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes, PeerUnusableError

__all__ = [
    "Backend",
    "CountingDataPlane",
    "DataPlane",
    "PeerUnusableError",
    "WatchedDataPlane",
]


class DataPlane(Protocol):
    """The part of a backend that lives outside kernel tables."""

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Make what the host state refers to (a TUN device, a bridge). Idempotent."""

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Make the data plane agree with the leases; returns the changes, a line each."""

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """The lines `reconcile` would return, with nothing touched (`--dry-run`)."""

    def problem(self) -> str | None:
        """Why pods can't be served now, as one line, or None when all is well."""

    def close(self) -> None:
        """The daemon stops: let go, and leave packets flowing."""

    def cleanup(self) -> None:
        """Remove every trace (`flatmeshd --cleanup`)."""


@runtime_checkable
class CountingDataPlane(DataPlane, Protocol):
    """A data plane that counts packets itself; counts of one name have the same labels."""

    def counts(self) -> list[Count]:
        """The counters now, from any thread; empty while it can't be asked."""


@runtime_checkable
class WatchedDataPlane(DataPlane, Protocol):
    """A data plane that other programs hold, and change or restart without netlink's notice.

    All its state is there, not here: so a changed config of the same type needs no cleanup,
    the next `reconcile` of its successor puts right what differs.
    """

    plugs_pods: bool
    """Whether it plugs pods in itself, so that an ADD has to wait for its next look."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, from any thread, when it is worth a look. Again is harmless."""

    def look_again(self) -> None:
        """Something may have changed: the next `reconcile` takes nothing for granted.

        What it finds when nobody said so may be taken from memory.
        """


class Backend(Protocol):
    """One way of carrying pod packets between hosts."""

    name: str
    """The `Type` in the cluster config and `BackendType` in leases."""

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """What this host publishes in its lease.

        `previous` is what the host's lease says now, so that a key or MAC which peers
        already know is kept across restarts and reboots.
        """

    def mtu(self, underlay: Underlay) -> int:
        """The MTU of pods, in bytes: the underlay's less this backend's overhead."""

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """What the host needs whoever its peers are."""

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """What one peer adds.

        Raises PeerUnusableError when the peer's lease is of another backend or lacks data.
        """

    def data_plane(self) -> DataPlane | None:
        """The part outside kernel tables, made once per daemon; None where there is none."""
