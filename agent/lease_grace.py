"""Peers whose leases vanished although nobody released them: traffic to them goes on for a while.

An expired lease means that its host didn't reach the lease source for a day, not that the host or
its pods are dead; and when etcd is started empty or from a backup, all leases are gone at once
while all hosts are alive. Removing the routes would stop traffic that still works. So a lease that
vanished stays in use until

    it is released (`flatmesh lease release`),
    the same host registers again (under whatever subnet),
    another host holds a subnet that overlaps, or
    GRACE is over: then the host is taken for gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from netaddr import IPSet

from ipam.lease import Lease

GRACE = 3600.0  # seconds


@dataclass(slots=True)
class LeaseGrace:
    """The leases kept in use after they vanished from the lease source."""

    kept: dict[str, tuple[Lease, float]] = field(default_factory=dict)
    """By key: the lease, and the moment (monotonic seconds) until which it is kept."""

    def update(self, expired: Mapping[str, Lease], released: Iterable[str], now: float) -> None:
        """Take in what a snapshot says has gone, and how."""
        for key, lease in expired.items():
            self.kept.setdefault(key, (lease, now + GRACE))
        for key in released:
            self.kept.pop(key, None)

    def serve(self, leases: Mapping[str, Lease], now: float) -> Mapping[str, Lease]:
        """All leases to serve: those there are, and those kept that nothing speaks against."""
        if not self.kept:
            return leases
        taken = IPSet([network for held in leases.values() for network in _networks(held)])
        hosts = {_host(held) for held in leases.values()}
        self.kept = {
            key: (lease, until)
            for key, (lease, until) in self.kept.items()
            if now < until
            and taken.isdisjoint(IPSet(_networks(lease)))
            and _host(lease) not in hosts
        }
        return {**{key: lease for key, (lease, _) in self.kept.items()}, **leases}


def _host(lease: Lease) -> IPv4Address | IPv6Address | None:
    """What tells one host's leases from another's."""
    return lease.attributes.public_ip or lease.attributes.public_ipv6


def _networks(lease: Lease) -> list[str]:
    return [str(network) for network in (lease.subnet, lease.ipv6_subnet) if network is not None]
