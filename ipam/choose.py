"""Which subnets a host asks for, and in which order. Pure.

flanneld's order (flannel, pkg/subnet/etcd/local_manager.go): the lease we already hold; the
subnet of our last run, from subnet.env; then a free one. flanneld picks that one at random
from the first hundred and gives up after a few collisions; here every free subnet is a
candidate, in random order, so that many hosts that start at once rarely collide, and a
network with exactly as many subnets as hosts is filled to the last one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from ipam.lease import Lease
from ipam.network import NetworkConfig

PAGE = 128
"""Candidates worked out at a time: a network may hold millions of subnets."""
Subnets = tuple[IPv4Network | None, IPv6Network | None]


def fits(config: NetworkConfig, subnet: IPv4Network | None, ipv6: IPv6Network | None) -> bool:
    """Whether a lease of these subnets is one that the config allows."""
    if config.enable_ipv4 != (subnet is not None) or config.enable_ipv6 != (ipv6 is not None):
        return False
    if subnet is not None and (
        subnet.prefixlen != config.subnet_len
        or config.subnet_min is None
        or config.subnet_max is None
        or not config.subnet_min <= subnet.network_address <= config.subnet_max
    ):
        return False
    return ipv6 is None or (
        ipv6.prefixlen == config.ipv6_subnet_len
        and config.ipv6_subnet_min is not None
        and config.ipv6_subnet_max is not None
        and config.ipv6_subnet_min <= ipv6.network_address <= config.ipv6_subnet_max
    )


class Taken:
    """The address ranges that others hold, to be asked quickly."""

    def __init__(self, leases: Iterable[Lease]) -> None:
        held = list(leases)
        self._spans = {
            4: _merged([lease.subnet for lease in held if lease.subnet is not None]),
            6: _merged([lease.ipv6_subnet for lease in held if lease.ipv6_subnet is not None]),
        }

    def overlaps(self, network: IPv4Network | IPv6Network | None) -> bool:
        """Whether any held range shares an address with `network`."""
        if network is None:
            return False
        import bisect  # noqa: PLC0415 - stdlib, tiny

        first, last = int(network.network_address), int(network.broadcast_address)
        spans = self._spans[network.version]
        at = bisect.bisect_right(spans, (last, last)) - 1
        # spans are disjoint and sorted: only the last one that starts before our end can reach us
        return at >= 0 and spans[at][1] >= first


def candidates(
    config: NetworkConfig, taken: Taken, *, rng: random.Random | None = None
) -> Iterator[Subnets]:
    """All free subnets in random order, one of each enabled family at a time."""
    chance = rng or random.SystemRandom()
    v4 = _free(config, 4, taken, chance)
    v6 = _free(config, 6, taken, chance)
    while True:
        try:
            yield (
                next(v4) if config.enable_ipv4 else None,  # type: ignore[misc]
                next(v6) if config.enable_ipv6 else None,
            )
        except StopIteration:
            return


def _free(
    config: NetworkConfig, version: int, taken: Taken, chance: random.Random
) -> Iterator[IPv4Network | IPv6Network]:
    """Walk the family's subnets once, from a random place, in shuffled pages."""
    if version == 4:
        low, high, length = config.subnet_min, config.subnet_max, config.subnet_len
        kind: type[IPv4Network | IPv6Network] = IPv4Network
    else:
        low, high = config.ipv6_subnet_min, config.ipv6_subnet_max  # type: ignore[assignment]
        length, kind = config.ipv6_subnet_len, IPv6Network
    if low is None or high is None:
        return
    size = 1 << (low.max_prefixlen - length)
    count = (int(high) - int(low)) // size + 1
    start = chance.randrange(count)
    for page in range(0, count, PAGE):
        numbers = [(start + n) % count for n in range(page, min(page + PAGE, count))]
        chance.shuffle(numbers)
        for number in numbers:
            network = kind((int(low) + number * size, length))
            if not taken.overlaps(network):
                yield network


def _merged(networks: list[IPv4Network] | list[IPv6Network]) -> list[tuple[int, int]]:
    """First and last address of each stretch of held addresses, sorted, disjoint."""
    spans: list[tuple[int, int]] = []
    for first, last in sorted((int(n.network_address), int(n.broadcast_address)) for n in networks):
        if spans and first <= spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans
