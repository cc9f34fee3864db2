# SPDX-License-Identifier: Apache-2.0
"""Which subnets a host asks for, and in which order. Pure.

flanneld's order (flannel, pkg/subnet/etcd/local_manager.go): the lease we already hold; the
subnet of our last run, from subnet.env; then a free one at random. flanneld picks from the
first hundred and gives up after a few collisions; here every free subnet is equally likely,
so that hosts which start at the same moment rarely collide, and a network with exactly as
many subnets as hosts is filled to the last one.

Subnets are counted from SubnetMin on. In dual stack the n-th IPv4 subnet goes with the n-th
IPv6 subnet: whoever wants the same IPv4 subnet wants the same pair, so that etcd's compare of
one key guards both. Only where no such pair is free (flanneld pairs at random) are leftovers
combined; these are marked, since two hosts may then end up with one half in common.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import accumulate
from typing import Any

from ipam.etcd_origin import origin_of
from ipam.lease import Lease, LeaseAttributes, same_host
from ipam.network import NetworkConfig

MAX_COUNT = 1 << 62
"""Subnets of a family that are considered; IPv6 networks may hold more than we can count."""

Subnets = tuple[IPv4Network | None, IPv6Network | None]
"""A subnet of each enabled family."""
Span = tuple[int, int]
"""Numbers of subnets: first and last, inclusive."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Subnets to ask for."""

    subnets: Subnets
    paired: bool = True
    """Whether everybody who asks for one half asks for the other, too."""


def fits(config: NetworkConfig, subnet: IPv4Network | None, ipv6: IPv6Network | None) -> bool:
    """Whether a lease of these subnets is one that the config allows."""
    if config.enable_ipv4 != (subnet is not None) or config.enable_ipv6 != (ipv6 is not None):
        return False
    return all(
        pool.holds(network)
        for pool, network in ((Pool.ipv4(config), subnet), (Pool.ipv6(config), ipv6))
        if pool is not None and network is not None
    )


def same_lengths(config: NetworkConfig, held: Iterable[Subnets]) -> bool:
    """Whether subnets of this config overlap a held one only where both begin alike."""
    return all(
        (v4 is None or v4.prefixlen == config.subnet_len)
        and (v6 is None or v6.prefixlen == config.ipv6_subnet_len)
        for v4, v6 in held
    )


def _age(lease: Lease) -> int:
    """Smaller for a lease that was written earlier."""
    return origin_of(lease).revision


def own_lease(
    leases: Iterable[Lease],
    config: NetworkConfig,
    attributes: LeaseAttributes,
    previous: Lease | None = None,
) -> Lease | None:
    """The lease that is this host's by its address, and fits the config.

    Of several: the one of our last run, then a reservation, then the oldest.
    """
    own = [
        lease
        for lease in leases
        if same_host(lease.attributes, attributes) and fits(config, lease.subnet, lease.ipv6_subnet)
    ]
    used = previous.key if previous is not None else None
    own.sort(key=lambda lease: (lease.key != used, not lease.reserved, _age(lease), lease.key))
    return own[0] if own else None


def successor(lease: Lease, config: NetworkConfig) -> Lease | None:
    """The subnets that keep as much of a lease as the config allows, None: nothing.

    For a lease that doesn't fit since a family was switched on or off.
    """
    pools = [pool for pool in (Pool.ipv4(config), Pool.ipv6(config)) if pool is not None]
    for pool in pools:
        network = lease.subnet if pool.version == 4 else lease.ipv6_subnet
        if network is not None and pool.holds(network):
            number = pool.number(lease)
            if all(number < each.count for each in pools):
                return Lease(*_choice(pools, [number] * len(pools)).subnets)
    return None


def choices(
    config: NetworkConfig,
    held: Iterable[Subnets],
    *,
    previous: Lease | None = None,
    count: int = 1,
    rng: random.Random | None = None,
) -> list[Choice]:
    """Up to `count` different free subnets, the previous ones first; empty: all are held."""
    chance = rng or random.SystemRandom()
    pools = [pool for pool in (Pool.ipv4(config), Pool.ipv6(config)) if pool is not None]
    taken = list(held)
    spans = [pool.spans(taken) for pool in pools]
    found: list[Choice] = []
    if previous is not None and fits(config, previous.subnet, previous.ipv6_subnet):
        before = [pool.number(previous) for pool in pools]
        if not any(_covered(s, n) for s, n in zip(spans, before, strict=True)):
            subnets = (previous.subnet, previous.ipv6_subnet)
            found.append(Choice(subnets, paired=len(set(before)) == 1))
    everything = _merged([span for family in spans for span in family])
    size = min(pool.count for pool in pools)
    numbers = _sample(everything, size, count, chance)
    found += [_choice(pools, [number] * len(pools)) for number in numbers]
    if not found:
        alone = [_sample(s, p.count, count, chance) for s, p in zip(spans, pools, strict=True)]
        found = [_choice(pools, each, paired=False) for each in zip(*alone, strict=False)]
    unique: dict[Subnets, Choice] = {}
    for choice in found:
        unique.setdefault(choice.subnets, choice)
    return list(unique.values())[:count]


@dataclass(frozen=True, slots=True)
class Pool:
    """The subnets of one family that may be leased, counted from 0."""

    network: type[IPv4Network | IPv6Network]
    version: int
    base: int
    """Address of the first."""
    size: int
    """Addresses in each."""
    count: int
    subnet_len: int

    @classmethod
    def ipv4(cls, config: NetworkConfig) -> Pool | None:
        """The IPv4 subnets of a config, None when it has no IPv4."""
        return cls._of(IPv4Network, config.subnet_min, config.subnet_max, config.subnet_len)

    @classmethod
    def ipv6(cls, config: NetworkConfig) -> Pool | None:
        """The IPv6 subnets of a config, None when it has no IPv6."""
        low, high = config.ipv6_subnet_min, config.ipv6_subnet_max
        return cls._of(IPv6Network, low, high, config.ipv6_subnet_len)

    @classmethod
    def _of(cls, kind: Any, low: Any, high: Any, length: int) -> Pool | None:
        if low is None or high is None:
            return None
        size = 1 << (low.max_prefixlen - length)
        count = min((int(high) - int(low)) // size + 1, MAX_COUNT)
        return cls(kind, low.version, int(low), size, count, length)

    def __getitem__(self, number: int) -> Any:
        """The subnet of a number."""
        return self.network((self.base + number * self.size, self.subnet_len))

    def holds(self, network: IPv4Network | IPv6Network) -> bool:
        """Whether a network is one of the subnets."""
        return (
            network.prefixlen == self.subnet_len
            and 0 <= (int(network.network_address) - self.base) // self.size < self.count
        )

    def number(self, lease: Lease) -> int:
        """Which one a lease's subnet of this family is."""
        network = lease.subnet if self.version == 4 else lease.ipv6_subnet
        assert network is not None  # noqa: S101 - callers have asked `fits`
        return (int(network.network_address) - self.base) // self.size

    def spans(self, held: Iterable[Subnets]) -> list[Span]:
        """The numbers that share an address with held networks, sorted, disjoint."""
        found = []
        for pair in held:
            network = pair[0] if self.version == 4 else pair[1]
            if network is None:
                continue
            first = int(network.network_address)
            last = first + (1 << (network.max_prefixlen - network.prefixlen)) - 1
            low, high = (first - self.base) // self.size, (last - self.base) // self.size
            if high >= 0 and low < self.count:
                found.append((max(low, 0), min(high, self.count - 1)))
        return _merged(found)


def _choice(pools: Sequence[Pool], numbers: Sequence[int], *, paired: bool = True) -> Choice:
    by_version = {p.version: p[n] for p, n in zip(pools, numbers, strict=True)}
    return Choice((by_version.get(4), by_version.get(6)), paired)


def _sample(taken: Sequence[Span], size: int, count: int, chance: random.Random) -> list[int]:
    """Different numbers below `size`, at random, in none of the spans."""
    inside = [(low, min(high, size - 1)) for low, high in taken if low < size]
    # free numbers before each span: the k-th free one lies behind all spans with at most k
    before = list(accumulate((high - low + 1 for low, high in inside), initial=0))
    starts = [low - skipped for (low, _), skipped in zip(inside, before, strict=False)]
    free = size - before[-1]
    picked = chance.sample(range(free), min(count, free))
    return [number + before[bisect.bisect_right(starts, number)] for number in picked]


def _covered(spans: Sequence[Span], number: int) -> bool:
    at = bisect.bisect_right(spans, (number, MAX_COUNT)) - 1
    return at >= 0 and spans[at][1] >= number


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
