# SPDX-License-Identifier: Apache-2.0
"""Services as elements of nftables maps: no chain and no rule for a service or an endpoint.

    virtual4_tcp_hash_32     (virtual address, port, slot) -> (endpoint's address, port)
    published4_tcp_hash_32   (published port, slot) -> (endpoint's address, port)
    hairpin4                 (endpoint, endpoint): who may be led back to itself
    limited                  (protocol, published port): only some sources may use it
    sources4_24              (protocol, published port, source cut to 24 bits): these

and the same with 6, udp and sctp. There is a map for each way to choose a slot (`hash` of the
client's address and port, `client`: of its address alone, `random`) and each number of slots in
use; `services.ruleset` has the one rule that looks each up. A service without ready endpoints has
no elements.

One map for all protocols was tried: nft 1.0.6 refuses `th dport` in a `typeof` that it reads back
from the kernel.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hostnet.nft.sets import NftElement, NftSet
from hostnet.ownership import SERVICES_TABLE
from services.model import PROTOCOLS, Endpoint, Service, ServicePort
from services.served import ServedService
from services.slots import assign

FAMILIES = (4, 6)
Target = tuple[int, str, int]
"""What clients send to: protocol's number, address (empty: of any host) and port."""


class SlotMap(NamedTuple):
    """One of the maps."""

    kind: str
    """`virtual` or `published`."""
    family: int
    protocol: str
    selection: str
    """`hash`, `client` or `random`."""
    slots: int

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.kind}{self.family}_{self.protocol}_{self.selection}_{self.slots}"


@functools.cache
def slot_map(which: SlotMap) -> NftSet:
    """The map as a value of the host's state."""
    address = f"ipv{which.family}_addr"
    port = f"{which.protocol}_service"
    key = (address, port, "slot") if which.kind == "virtual" else (port, "slot")
    return NftSet("inet", SERVICES_TABLE, which.name, key, (address, port))


@functools.cache
def hairpin_set(family: int) -> NftSet:
    """Endpoints' addresses, each twice."""
    address = f"ipv{family}_addr"
    return NftSet("inet", SERVICES_TABLE, f"hairpin{family}", (address, address))


LIMITED = NftSet("inet", SERVICES_TABLE, "limited", ("inet_proto", "inet_service"))


@functools.cache
def sources_set(family: int, length: int) -> NftSet:
    """Sources, cut to `length` bits, of published ports that not everybody may use."""
    types = ("inet_proto", "inet_service", f"ipv{family}_addr")
    return NftSet("inet", SERVICES_TABLE, f"sources{family}_{length}", types)


def ready(served: ServedService, family: int) -> list[Endpoint]:
    """The endpoints that take new connections of a family."""
    return [o for o in served.endpoints if not o.draining and o.address(family) is not None]


def elements_of(service: Service, served: ServedService) -> Iterator[NftElement]:
    """What one service adds; `service` has only what it may be served under."""
    selection = "client" if service.affinity else service.selection
    tables: dict[tuple[str, ...], list[int]] = {}
    for family in FAMILIES:
        endpoints = ready(served, family)
        if not endpoints:
            continue
        names = tuple(f"{service.name}/{one.id}" for one in endpoints)
        if names not in tables:
            tables[names] = assign(names, [one.weight for one in endpoints])
        table = tables[names]
        virtual = service.address(family)
        for port in service.ports:
            data = [_data(one, port, family) for one in endpoints]
            where = family, port.protocol, selection, len(table)
            if virtual is not None:
                key = virtual.packed + port_field(port.port)
                yield from _rows(slot_map(SlotMap("virtual", *where)), key, data, table)
            if port.published_port:
                key = port_field(port.published_port)
                if selection == "random":  # two hosts must choose the same for one packet
                    where = family, port.protocol, "hash", len(table)
                yield from _rows(slot_map(SlotMap("published", *where)), key, data, table)
        for one in endpoints:
            address = one.address(family)
            if address is not None:
                yield NftElement(hairpin_set(family), address.packed * 2)
    yield from _limits(service)


def _rows(of: NftSet, key: bytes, data: list[bytes], table: list[int]) -> Iterator[NftElement]:
    for slot, owner in zip(slot_fields(len(table)), table, strict=True):
        yield NftElement(of, key + slot, data[owner])


@functools.cache
def slot_fields(count: int) -> tuple[bytes, ...]:
    """Each slot's number as a field of a concatenation, in the host's byte order."""
    return tuple(slot.to_bytes(4, sys.byteorder) for slot in range(count))


def port_field(number: int) -> bytes:
    """A port as a field of a concatenation."""
    return number.to_bytes(2, "big") + b"\0\0"


def published_key(port: ServicePort) -> bytes:
    """Protocol and published port, as a key of two fields."""
    return bytes((PROTOCOLS[port.protocol], 0, 0, 0)) + port_field(port.published_port)


def _data(endpoint: Endpoint, port: ServicePort, family: int) -> bytes:
    address = endpoint.address(family)
    return (address.packed if address is not None else b"") + port_field(endpoint.port(port))


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

    parts: dict[str, frozenset[NftElement]] = field(default_factory=dict)
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
        for name, served in changed.items():
            old = self.parts.pop(name, frozenset())
            new: frozenset[NftElement] = frozenset()
            if served is not None and name in allowed:
                new = frozenset(elements_of(allowed[name], served))
                self.parts[name] = new
            self.sets.subtract({one.set for one in old})
            self.sets.update({one.set for one in new})
            gone |= self._needless(old - new)
            come |= self._needed(new - old)
        return gone - come, come - gone

    def _needless(self, elements: Iterable[NftElement]) -> set[NftElement]:
        found = set()
        for one in elements:
            if not one.data:
                self.shared[one] -= 1
                if self.shared[one]:
                    continue
                del self.shared[one]
            found.add(one)
        return found

    def _needed(self, elements: Iterable[NftElement]) -> set[NftElement]:
        found = set()
        for one in elements:
            if not one.data:
                self.shared[one] += 1
                if self.shared[one] > 1:
                    continue
            found.add(one)
        return found

    def all(self) -> frozenset[NftElement]:
        """All of them."""
        return frozenset().union(*self.parts.values())

    def used_sets(self) -> frozenset[NftSet]:
        """The maps and sets that some service uses."""
        return frozenset(one for one, count in self.sets.items() if count > 0)
