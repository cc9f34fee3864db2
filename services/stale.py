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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hostnet.conntrack.entries import Connection, Destination
from services.balancer import FAMILIES
from services.model import PROTOCOLS, Service
from services.served import ServedService

UDP = 17
Address = tuple[bytes, int]
"""Packed address, and port."""
Target = tuple[int, bytes, int]
"""Protocol, packed address, and port."""
LOCAL = {4: b"4", 6: b"6"}
"""In place of an address: any of this host's, of a family. Published ports have it."""


@dataclass(slots=True)
class Translations:
    """Where connections may lead, for each target."""

    ends: dict[Target, frozenset[Address]] = field(default_factory=dict)
    """Targets that had endpoints once stay, with none."""
    by_service: dict[str, list[Target]] = field(default_factory=dict)
    past: dict[Target, set[Address]] = field(default_factory=dict)
    """Where connections to published ports led before."""

    def update(
        self, allowed: Mapping[str, Service], changed: Mapping[str, ServedService | None]
    ) -> set[Target]:
        """Take in services; returns the targets whose entries may lead to the wrong place since."""
        lost: set[Target] = set()
        before: dict[Target, frozenset[Address]] = {}
        for name in changed:
            for target in self.by_service.pop(name, []):
                before[target] = self.ends[target]
                self.ends[target] = frozenset()
        for name, served in changed.items():
            if served is None or name not in allowed:
                continue
            for target, ends in _targets(allowed[name], served):
                self.ends[target] = ends
                self.by_service.setdefault(name, []).append(target)
                old = before.pop(target, frozenset())
                if not old <= ends or (not old and ends):
                    lost.add(target)
                self._forget(target, old - ends)
        for target, old in before.items():
            self._forget(target, old)
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
                if end not in ends:
                    yield one
                continue
            family = 4 if len(target[0]) == 4 else 6
            key = one.protocol, LOCAL[family], target[1]
            ends = self.ends.get(key)
            if ends is None or end in ends:
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


def _targets(
    service: Service, served: ServedService
) -> Iterator[tuple[Target, frozenset[Address]]]:
    for port in service.ports:
        number = PROTOCOLS[port.protocol]
        for family in FAMILIES:
            ends = frozenset(
                (address.packed, one.port(port))
                for one in served.endpoints
                if (address := one.address(family)) is not None
            )
            virtual = service.address(family)
            if virtual is not None:
                yield (number, virtual.packed, port.port), ends
            if port.published_port:
                yield (number, LOCAL[family], port.published_port), ends
