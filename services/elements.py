# SPDX-License-Identifier: Apache-2.0
"""What services add to the maps of `services.balancer`, and what changes as they do.

A service's slots are kept as a tuple for each map and port: 10,000 services of ten endpoints have
320,000 slots, and an object for each would be a second at every start, and 100 MiB.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hostnet.nft.sets import NftElement, NftSet
from hostnet.nft.slots import NftSlots, changed_slots
from services.balancer import (
    FAMILIES,
    LIMITED,
    SlotMap,
    hairpin_set,
    port_field,
    published_key,
    slot_map,
    sources_set,
)
from services.model import Endpoint, IPNetwork, Service
from services.served import ServedService
from services.slots import assign

PodNetworks = Sequence[tuple[IPNetwork, IPNetwork]]
"""The cluster's network and this host's subnet, for each family."""


@dataclass(frozen=True, slots=True)
class ServiceElements:
    """What one service adds."""

    slots: Mapping[tuple[NftSet, bytes], tuple[bytes, ...]] = field(default_factory=dict)
    """The data of each slot, by map and the first fields of the keys."""
    others: frozenset[NftElement] = frozenset()


NOTHING = ServiceElements()


def elements_of(service: Service, served: ServedService, pods: PodNetworks = ()) -> ServiceElements:
    """What one service adds; `service` has only what it may be served under.

    Only endpoints that may be on this host can be led back to themselves: of the cluster's pods
    those of its own subnet, and addresses that are no pod's.
    """
    selection = "client" if service.affinity else service.selection
    slots: dict[tuple[NftSet, bytes], tuple[bytes, ...]] = {}
    others = list(_limits(service))
    ready: dict[int, list[tuple[bytes, Endpoint]]] = {family: [] for family in FAMILIES}
    for one in served.endpoints:
        if not one.draining:
            for address in one.addresses:
                ready[address.version].append((address.packed, one))
    table: list[int] = []
    before: list[str] = []
    for family, endpoints in ready.items():
        if not endpoints:
            continue
        names = [f"{service.name}/{one.id}" for _, one in endpoints]
        if names != before:
            table = assign(names, [one.weight for _, one in endpoints])
            before = names
        virtual = service.address(family)
        for port in service.ports:
            data = [address + port_field(one.port(port)) for address, one in endpoints]
            owned = tuple([data[owner] for owner in table])
            where = family, port.protocol, selection, len(table)
            if virtual is not None:
                key = virtual.packed + port_field(port.port)
                slots[slot_map(SlotMap("virtual", *where)), key] = owned
            if port.published_port:
                key = port_field(port.published_port)
                if selection == "random":  # two hosts must choose the same for one packet
                    where = family, port.protocol, "hash", len(table)
                slots[slot_map(SlotMap("published", *where)), key] = owned
        others += _hairpins(endpoints, family, pods)
    return ServiceElements(slots, frozenset(others))


def _hairpins(
    endpoints: Sequence[tuple[bytes, Endpoint]], family: int, pods: PodNetworks
) -> Iterator[NftElement]:
    of = hairpin_set(family)
    cluster, own = next((_bounds(*pair) for pair in pods if pair[0].version == family), NO_PODS)
    for address, _ in endpoints:
        number = int.from_bytes(address, "big")
        if number not in cluster or number in own:
            yield NftElement(of, address * 2)


@functools.lru_cache(maxsize=16)
def _bounds(*networks: IPNetwork) -> tuple[range, ...]:
    """The networks' addresses as numbers."""
    firsts = ((int(one.network_address), one.num_addresses) for one in networks)
    return tuple(range(first, first + count) for first, count in firsts)


NO_PODS = range(0), range(0)


def _limits(service: Service) -> Iterator[NftElement]:
    if not service.sources:
        return
    for port in service.ports:
        if port.published_port:
            key = published_key(port)
            yield NftElement(LIMITED, key)
            for network in service.sources:
                of = sources_set(network.version, network.prefixlen)
                yield NftElement(of, key + network.network_address.packed)


@dataclass(slots=True)
class BalancerElements:
    """The elements of all services, kept up by the names of those that changed."""

    pods: PodNetworks = ()
    parts: dict[str, ServiceElements] = field(default_factory=dict)
    """By service."""
    shared: Counter[NftElement] = field(default_factory=Counter)
    """How many services need an element without data: an endpoint may be of several."""
    sets: Counter[NftSet] = field(default_factory=Counter)
    """How many services use a map or set."""

    def update(
        self, allowed: Mapping[str, Service], changed: Mapping[str, ServedService | None]
    ) -> tuple[set[NftElement], set[NftElement]]:
        """Take in services as they are now; returns the elements that (go, come)."""
        gone: set[NftElement] = set()
        come: set[NftElement] = set()
        for old, new in self._take(allowed, changed):
            for key in old.slots.keys() | new.slots.keys():
                less, more = changed_slots(*key, old.slots.get(key, ()), new.slots.get(key, ()))
                gone.update(less)
                come.update(more)
            gone |= self._needless(old.others - new.others)
            come |= self._needed(new.others - old.others)
        return gone - come, come - gone

    def fill(
        self, allowed: Mapping[str, Service], services: Mapping[str, ServedService | None]
    ) -> None:
        """Take in all services at the start: what changes then is `all_slots` and `others`."""
        for _, new in self._take(allowed, services):
            self._needed(new.others)

    def _take(
        self, allowed: Mapping[str, Service], changed: Mapping[str, ServedService | None]
    ) -> Iterator[tuple[ServiceElements, ServiceElements]]:
        for name, served in changed.items():
            old, new = self.parts.pop(name, NOTHING), NOTHING
            if served is not None and name in allowed:
                new = self.parts[name] = elements_of(allowed[name], served, self.pods)
            for part, step in ((old, -1), (new, 1)):
                for of in {key[0] for key in part.slots} | {one.set for one in part.others}:
                    self.sets[of] += step
            yield old, new

    def _needless(self, elements: Iterable[NftElement]) -> set[NftElement]:
        found = set()
        for one in elements:
            self.shared[one] -= 1
            if not self.shared[one]:
                del self.shared[one]
                found.add(one)
        return found

    def _needed(self, elements: Iterable[NftElement]) -> set[NftElement]:
        found = set()
        for one in elements:
            self.shared[one] += 1
            if self.shared[one] == 1:
                found.add(one)
        return found

    def slots(self) -> Sequence[NftSlots]:
        """The slots of all services, a value for each map and port."""
        return [
            NftSlots(*key, data) for part in self.parts.values() for key, data in part.slots.items()
        ]

    def others(self) -> frozenset[NftElement]:
        """The other elements."""
        return frozenset(self.shared)

    def size(self) -> int:
        """How many elements there are."""
        slots = (len(data) for part in self.parts.values() for data in part.slots.values())
        return sum(slots) + len(self.shared)

    def used_sets(self) -> frozenset[NftSet]:
        """The maps and sets that some service uses."""
        return frozenset(one for one, count in self.sets.items() if count > 0)
