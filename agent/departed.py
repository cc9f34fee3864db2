"""Peers whose leases vanished without leaving: traffic to them goes on for a while.

When etcd comes back empty or from a backup, the leases are gone although every host and pod
is alive; within seconds their daemons write them again. Taking their routes away meanwhile
would stop all traffic for etcd's sake. So the leases that were missing when etcd's history was
replaced stay in use until

    the same host registers again (under whatever subnet),
    somebody else holds a subnet that overlaps, or
    GRACE is over: then the host has really gone.

A lease that is deleted or expires in the ordinary course of history gets no grace: its
subnet may be another host's in the next moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from netaddr import IPSet

from ipam.lease import Lease

GRACE = 300.0  # seconds; a daemon that lives registers again within a few


@dataclass(slots=True)
class Departed:
    """The leases kept in use after etcd forgot them."""

    history: int | None = None
    """Of the last snapshot; see ipam.lease_view.Snapshot."""
    known: Mapping[str, Lease] = field(default_factory=dict)
    """Leases of the last snapshot."""
    kept: dict[str, tuple[Lease, float]] = field(default_factory=dict)
    """By key: the lease, and the moment (monotonic seconds) until which it is kept."""

    def take(self, leases: Mapping[str, Lease], history: int, now: float) -> Mapping[str, Lease]:
        """Take in a snapshot; returns its leases and the kept ones together."""
        if self.history is not None and history != self.history:
            for key, lease in self.known.items():
                if key not in leases:
                    self.kept.setdefault(key, (lease, now + GRACE))
        self.history, self.known = history, leases
        if not self.kept:
            return leases
        self._drop(leases, now)
        return {**{key: lease for key, (lease, _) in self.kept.items()}, **leases}

    def _drop(self, leases: Mapping[str, Lease], now: float) -> None:
        taken = IPSet([network for held in leases.values() for network in _networks(held)])
        hosts = {_host(held) for held in leases.values()}
        self.kept = {
            key: (lease, until)
            for key, (lease, until) in self.kept.items()
            if now < until
            and taken.isdisjoint(IPSet(_networks(lease)))
            and _host(lease) not in hosts
        }


def _host(lease: Lease) -> IPv4Address | IPv6Address | None:
    """What tells one host's leases from another's."""
    return lease.attributes.public_ip or lease.attributes.public_ipv6


def _networks(lease: Lease) -> list[str]:
    return [str(network) for network in (lease.subnet, lease.ipv6_subnet) if network is not None]
