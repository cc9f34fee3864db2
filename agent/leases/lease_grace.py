# SPDX-License-Identifier: Apache-2.0
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

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import accumulate

from ipam.lease import Lease

GRACE = 3600.0  # seconds
Network = IPv4Network | IPv6Network


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
        taken = _Taken(leases.values())
        hosts = {_host(held) for held in leases.values()}
        self.kept = {
            key: (lease, until)
            for key, (lease, until) in self.kept.items()
            if now < until
            and _host(lease) not in hosts
            and not any(map(taken.overlaps, lease.subnets))
        }
        return {**{key: lease for key, (lease, _) in self.kept.items()}, **leases}


def _host(lease: Lease) -> IPv4Address | IPv6Address | None:
    """What tells one host's leases from another's."""
    return lease.attributes.public_ip or lease.attributes.public_ipv6


class _Taken:
    """The subnets of many leases, to be asked for overlaps.

    netaddr's IPSet was used before: with 5,000 leases and 100 kept ones a question took 1.3 s, and
    this one takes 4 ms.
    """

    def __init__(self, leases: Iterable[Lease]) -> None:
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for lease in leases:
            for network in lease.subnets:
                ranges[network.version].append(_range(network))
        for found in ranges.values():
            found.sort()
        self._firsts = {version: [r[0] for r in found] for version, found in ranges.items()}
        self._lasts = {
            version: list(accumulate((r[1] for r in found), max))
            for version, found in ranges.items()
        }
        """The highest last address of a range and all before it: ranges may hold one another."""

    def overlaps(self, network: Network) -> bool:
        """Whether a subnet has an address in common with one of them."""
        first, last = _range(network)
        before = bisect_right(self._firsts[network.version], last)
        return before > 0 and self._lasts[network.version][before - 1] >= first


def _range(network: Network) -> tuple[int, int]:
    """First and last address."""
    first = int(network.network_address)
    return first, first | ((1 << (network.max_prefixlen - network.prefixlen)) - 1)
