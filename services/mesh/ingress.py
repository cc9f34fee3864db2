# SPDX-License-Identifier: Apache-2.0
"""Which host a client's packet is passed on to: elements of maps, looked up without any state.

    ingress4_tcp_hash_32    (published port, slot) -> hardware address of the endpoint's host
    published               (protocol, port) that are looked up at all

The slots are those of `services.balancer`, so the host that the packet comes to chooses the same
endpoint. A slot whose endpoint is on this host, or on none that is known, has no element: the
packet takes the ordinary way, and is translated here.

A draining endpoint keeps its slots until it goes, as established connections are found by them. New
ones that come to its host are translated there, to another endpoint.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hostnet.nft.sets import NftElement, NftSet
from hostnet.nft.slots import slot_fields
from hostnet.ownership import MESH_TABLE
from services.balancer import FAMILIES, port_field, published_key
from services.mesh.member import Member, Places, packed_mac
from services.model import Service
from services.served import ServedService
from services.slots import assign

PUBLISHED = NftSet("netdev", MESH_TABLE, "published", ("inet_proto", "inet_service"))
PREFIX = "ingress"


@functools.cache
def ingress_map(family: int, protocol: str, selection: str, slots: int) -> NftSet:
    """One of the maps."""
    name = f"{PREFIX}{family}_{protocol}_{selection}_{slots}"
    return NftSet("netdev", MESH_TABLE, name, (f"{protocol}_service", "slot"), ("ether_addr",))


def elements_of(
    service: Service, served: ServedService, places: Places, own: Member
) -> Iterator[NftElement]:
    """What one service adds on the host `own`; `service` has only what it may be served under."""
    ports = [port for port in service.ports if port.published_port]
    if not ports:
        return
    selection = "client" if service.affinity else "hash"
    remote: set[str] = set()
    for family in FAMILIES:
        endpoints = [one for one in served.endpoints if one.address(family) is not None]
        hosts: list[bytes] = []
        for one in endpoints:
            address = one.address(family)
            member = places.find(address) if address is not None else None
            known = member is not None and member.address != own.address
            hosts.append(packed_mac(member.receiver) if known and member is not None else b"")
        if not any(hosts):
            continue
        names = [f"{service.name}/{one.id}" for one in endpoints]
        table = assign(names, [one.weight for one in endpoints])
        for port in ports:
            of = ingress_map(family, port.protocol, selection, len(table))
            key = port_field(port.published_port)
            for slot, owner in zip(slot_fields(len(table)), table, strict=True):
                if hosts[owner]:
                    yield NftElement(of, key + slot, hosts[owner])
            remote.add(port.name)
    for port in ports:
        if port.name in remote:
            yield NftElement(PUBLISHED, published_key(port))


@dataclass(slots=True)
class IngressElements:
    """The elements of all services, kept up by the names of those that changed."""

    places: Places
    own: Member
    parts: dict[str, frozenset[NftElement]] = field(default_factory=dict)
    """By service."""
    published: set[str] = field(default_factory=set)
    """Services with published ports and endpoints: their packets may come from any member."""
    uses: Counter[NftSet] = field(default_factory=Counter)
    """How many services have elements in a map."""

    def update(
        self, allowed: Mapping[str, Service], changed: Mapping[str, ServedService | None]
    ) -> tuple[set[NftElement], set[NftElement]]:
        """Take in services as they are now; returns the elements that (go, come)."""
        gone: set[NftElement] = set()
        come: set[NftElement] = set()
        for name, served in changed.items():
            old = self.parts.pop(name, frozenset())
            new: frozenset[NftElement] = frozenset()
            self.published.discard(name)
            if served is not None and name in allowed:
                if served.endpoints and any(p.published_port for p in allowed[name].ports):
                    self.published.add(name)
                new = frozenset(elements_of(allowed[name], served, self.places, self.own))
                if new:
                    self.parts[name] = new
            self.uses.subtract({one.set for one in old})
            self.uses.update({one.set for one in new})
            gone |= old - new
            come |= new - old
        return gone - come, come - gone

    def all(self) -> frozenset[NftElement]:
        """All of them."""
        return frozenset().union(*self.parts.values())

    def maps(self) -> frozenset[NftSet]:
        """The maps in use."""
        return frozenset(one for one, count in self.uses.items() if count > 0) - {PUBLISHED}
