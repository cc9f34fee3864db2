# SPDX-License-Identifier: Apache-2.0
"""Where leases come from: the protocol that etcd, and every other source, fits.

The daemon asks a source for two things: what all leases are, and that this host has one. How a
source stores them, whether a lease ends by itself, and who chooses its subnet is the source's
own matter, so none of it is here:

    etcd                a key per lease, a time to live that the source renews, a free subnet
                        chosen by the host (`ipam.etcd_source`)
    Kubernetes nodes    an annotated Node per lease, which lives as long as the Node, and whose
                        subnet the cluster has chosen

A source belongs to one event loop and is used by that loop's tasks only. None of its calls
blocks the loop, and each can be cancelled at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from base.errors import FlatmeshError
from ipam.host_records import HostRecord
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig


class LeaseSourceError(FlatmeshError):
    """A source can't do what it was asked for now; trying again later may help."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster config and all leases at one moment."""

    config: NetworkConfig | None
    config_error: str | None
    """Why there is no config: it is missing, or broken; one line."""
    leases: Mapping[str, Lease]
    """By `Lease.key`. Never changed after it was handed out."""
    changed: frozenset[str] = frozenset()
    """Keys of leases that came, went or changed since the snapshot before."""
    expired: Mapping[str, Lease] = field(default_factory=dict)
    """Leases that vanished since the snapshot before although nobody released them: they ran
    out, or the source lost them. Their hosts may be alive. A reservation is never among them;
    a source that tells of every removal leaves it empty."""
    released: frozenset[str] = frozenset()
    """Keys that were released on purpose since the snapshot before."""
    revision: int = 0
    """A number that grows with each change, where the source has one. For logs and tests."""
    history: int = 0
    """Grows when the source was started empty or from a backup: what is missing then was not
    taken away by anybody. Revisions compare only within one history."""
    config_missing: bool = False
    """Whether there is no config at all; else one without `config` is broken."""

    def has_config_of(self, other: Snapshot) -> bool:
        """Whether the cluster config is the same, or why there is none."""
        return (self.config, self.config_error) == (other.config, other.config_error)


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What this host wants its lease to be."""

    config: NetworkConfig
    public_ip: IPv4Address | None
    """With `public_ipv6`, what the host is known by: at least one of them is given."""
    public_ipv6: IPv6Address | None
    attributes: Callable[[LeaseAttributes | None], Awaitable[LeaseAttributes]]
    """Called with what this host's lease says now (None: there is none); returns what it should
    say. A key or a MAC that peers know already is so kept."""
    previous: Lease | None = None
    """The subnets of the last run, until a lease is held. Asked for again where the source lets
    a host choose; from then on the source knows them itself."""


class LeaseSource(Protocol):
    """One source of leases, for one host."""

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """Yield all leases whenever some have changed; never ends.

        The first one comes as soon as the source has answered. Whoever reads slowly gets fewer,
        and each is whole, so that no removal can be missed. Trouble with the source is logged,
        and tried again by the source itself; the last snapshot stays good meanwhile.
        """

    async def check(self) -> None:
        """Ask the source something. Raises LeaseSourceError with the reason when it can't be."""

    def expected(
        self,
        leases: Mapping[str, Lease],
        config: NetworkConfig,
        host: LeaseAttributes,
        previous: Lease | None,
    ) -> Lease | None:
        """The lease that `hold` would keep now, None when it would take another; asks nobody.

        `host` has the host's addresses; `previous` is the last run's.
        """

    def public_addresses(self) -> tuple[IPv4Address | None, IPv6Address | None]:
        """By which addresses peers reach this host, where its operator says so in the source.

        None: by the underlay's own.
        """

    async def hold(self, request: LeaseRequest) -> Lease:
        """Take this host's lease, or keep it, or publish in it what is now asked for.

        Called again whenever something has changed that may concern it; does nothing when the
        lease is as requested. Keeping it alive is the source's own work from then on. Raises
        LeaseSourceError: there is none to be had now. After a call that has once succeeded, a
        lease that another host claims is returned as it was, and `problem` tells.
        """

    async def held_before(self) -> Lease | None:
        """The lease that this host held in its last run, if it is still its own; for `release`.

        Raises LeaseSourceError.
        """

    async def release(self, lease: Lease) -> None:
        """Give a lease back, on purpose. Raises LeaseSourceError."""

    async def announce(self, record: HostRecord) -> None:
        """Tell other hosts what this one says of itself, beside the lease it holds.

        Called again every few seconds: what is there already is not written again, and nothing is
        where no lease is held. Raises LeaseSourceError.
        """

    def hosts(self) -> Mapping[str, HostRecord]:
        """What hosts say of themselves, by `Lease.key`, as far as known. From any thread."""

    def changed(self) -> Mapping[str, float]:
        """When leases were seen to change since this daemon follows them, in seconds since 1970.

        By `Lease.key`. From any thread.
        """

    async def time_left(self) -> float | None:
        """Seconds until this host's lease ends unless it is renewed; None: it does not end.

        Raises LeaseSourceError.
        """

    def connect_anew(self) -> None:
        """Make connections anew, with the credentials as they are now.

        Called when this host's own addresses have changed, and for a reload.
        """

    def problem(self) -> str | None:
        """Why this host's lease is not held, as one line; None when it is."""

    async def close(self) -> None:
        """Stop; the lease stays this host's for as long as the source keeps it."""
