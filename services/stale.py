# SPDX-License-Identifier: Apache-2.0
"""Which tracked connections lead to endpoints that are gone. Pure.

A connection's translation is made once; when its endpoint goes, packets would still be sent there:
UDP clients that keep their port would wait for ever. Such an entry is deleted, and the next packet
is led to another endpoint, or refused. Of TCP it is answered with a reset then. An entry that was
made while a service had no endpoint is deleted, too. One that leads to an endpoint that still is
there, draining or not, never is.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hostnet.conntrack.entries import Connection, Destination
from services.balancer import FAMILIES
from services.model import PROTOCOLS, Endpoint, Service, ServicePort
from services.served import ServedService

UDP = 17
Address = tuple[bytes, int]
"""Packed address, and port."""
Target = tuple[int, bytes, int]
"""Protocol, packed address, and port."""
LOCAL = {4: b"4", 6: b"6"}
"""In place of an address: any of this host's, of a family. Published ports have it."""


@dataclass(slots=True)
class PortEnds:
    """Where connections to one port may lead. Most are never asked for, and so not computed."""

    endpoints: Sequence[Endpoint] = ()
    port: ServicePort | None = None
    family: int = 0
    _found: frozenset[Address] | None = None

    def __bool__(self) -> bool:
        return any(one.address(self.family) is not None for one in self.endpoints)

    def all(self) -> frozenset[Address]:
        """Address and port of each endpoint."""
        if self._found is None:
            port = self.port
            self._found = frozenset(
                (address.packed, one.port(port))
                for one in self.endpoints
                if port is not None and (address := one.address(self.family)) is not None
            )
        return self._found


@dataclass(slots=True)
class Translations:
    """Where connections may lead, for each target."""

    ends: dict[Target, PortEnds] = field(default_factory=dict)
    """Targets that had endpoints once stay, with none."""
    by_service: dict[str, list[Target]] = field(default_factory=dict)
    past: dict[Target, set[Address]] = field(default_factory=dict)
    """Where connections to published ports led before."""

    def update(
        self, allowed: Mapping[str, Service], changed: Mapping[str, ServedService | None]
    ) -> set[Target]:
        """Take in services; returns the targets whose entries may lead to the wrong place since."""
        lost: set[Target] = set()
        before: dict[Target, PortEnds] = {}
        for name in changed:
            for target in self.by_service.pop(name, []):
                before[target] = self.ends[target]
                self.ends[target] = PortEnds()
        for name, served in changed.items():
            if served is None or name not in allowed:
                continue
            for target, ends in _targets(allowed[name], served):
                self.ends[target] = ends
                self.by_service.setdefault(name, []).append(target)
                old = before.pop(target, None)
                if not old:
                    if ends:
                        lost.add(target)
                    continue
                if gone := old.all() - ends.all():
                    lost.add(target)
                    self._forget(target, gone)
        for target, old in before.items():
            self._forget(target, old.all())
        return lost | {target for target, old in before.items() if old}

    def _forget(self, target: Target, ends: frozenset[Address]) -> None:
        if ends and target[1] in LOCAL.values():
            self.past.setdefault(target, set()).update(ends)

    def stale(
        self, connections: Iterable[Connection], local: Collection[bytes]
    ) -> Iterator[Connection]:
        """Those that lead elsewhere; `local` are this host's addresses, packed."""
        for one in connections:
            target = one.original.destination, one.original.destination_port
            end = one.reply.source, one.reply.source_port
            ends = self.ends.get((one.protocol, *target))
            if ends is not None:
                if end not in ends.all():
                    yield one
                continue
            family = 4 if len(target[0]) == 4 else 6
            key = one.protocol, LOCAL[family], target[1]
            ends = self.ends.get(key)
            if ends is None or end in ends.all():
                continue
            if target[0] not in local:
                # another host was asked; other programs' translations are left alone
                if end in self.past.get(key, ()):
                    yield one
                continue
            # a connection to the host's own server was not translated: TCP's may be one
            if end != target or (one.protocol == UDP and ends):
                yield one


def destination(target: Target) -> Destination:
    """The connections that a target concerns."""
    protocol, address, port = target
    published = address in LOCAL.values()
    family = socket.AF_INET if address == LOCAL[4] or len(address) == 4 else socket.AF_INET6
    return Destination(family, protocol, b"" if published else address, port)


def _targets(service: Service, served: ServedService) -> Iterator[tuple[Target, PortEnds]]:
    for port in service.ports:
        number = PROTOCOLS[port.protocol]
        for family in FAMILIES:
            ends = PortEnds(served.endpoints, port, family)
            virtual = service.address(family)
            if virtual is not None:
                yield (number, virtual.packed, port.port), ends
            if port.published_port:
                yield (number, LOCAL[family], port.published_port), ends
