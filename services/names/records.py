# SPDX-License-Identifier: Apache-2.0
"""What names there are, and what they lead to. Pure: no packets, no sockets.

Below the cluster's zone, with 10-5-1-2 for an endpoint's address 10.5.1.2 and fd05--2 for fd05::2:

    web                         virtual addresses; without any: as tasks.web
    tasks.web                   addresses of all ready endpoints
    10-5-1-2.tasks.web          one ready endpoint's address
    _http._tcp.web              SRV: the port, at web
    _http._tcp.tasks.web        SRV: each ready endpoint's port, at its own name

The reverse names of virtual addresses lead to the service, those of endpoints to their own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple

TASKS = "tasks"
MAX_ANSWERS = 1000
"""Records of one answer; a message has 64 KiB at most."""


class NamedPort(NamedTuple):
    """A port of a service."""

    name: str
    protocol: str
    port: int
    target_port: int


class NamedEndpoint(NamedTuple):
    """A ready endpoint."""

    addresses: tuple[str, ...]
    ports: Mapping[str, int]
    """Where they differ from the service's, by the port's name."""


class NamedService(NamedTuple):
    """What names say of one service."""

    addresses: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    ready: tuple[NamedEndpoint, ...] = ()

    @classmethod
    def from_json(cls, document: Sequence[Any]) -> NamedService:
        """Read what JSON makes of this tuple. Raises TypeError, ValueError."""
        addresses, ports, ready = document
        return cls(
            tuple(addresses),
            tuple(NamedPort(*port) for port in ports),
            tuple(NamedEndpoint(tuple(one), dict(ports)) for one, ports in ready),
        )

    def of_family(self, version: int, *, tasks: bool) -> list[str]:
        """The addresses of a family (4 or 6) of the service's name, or of its tasks."""
        found: Iterable[str] = self.addresses
        if tasks or not self.addresses:
            found = (address for one in self.ready for address in one.addresses)
        return [one for one in found if (":" in one) == (version == 6)][:MAX_ANSWERS]


class Srv(NamedTuple):
    """A SRV record: the name, relative to the zone, and the port."""

    target: str
    port: int


class Records(NamedTuple):
    """What a name has. A name without any of these, but with names below it, exists as well."""

    addresses: Mapping[int, Sequence[str]] = {}
    """By family, 4 and 6."""
    srv: Sequence[Srv] = ()


@dataclass(slots=True)
class ZoneRecords:
    """All services by name, kept up by changes. For one thread."""

    services: dict[str, NamedService] = field(default_factory=dict)
    _owners: dict[str, dict[str, str]] = field(default_factory=dict)
    """For an address: by service, the name relative to the zone."""

    def update(self, changed: Mapping[str, NamedService | None]) -> None:
        """Take in services; None is one that is gone."""
        for name, service in changed.items():
            old = self.services.pop(name, None)
            for address in _own_names(name, old):
                owners = self._owners.get(address, {})
                owners.pop(name, None)
                if not owners:
                    self._owners.pop(address, None)
            if service is not None:
                self.services[name] = service
                for address, own in _own_names(name, service).items():
                    self._owners.setdefault(address, {})[name] = own

    def owner(self, address: str) -> str | None:
        """The name of an address, relative to the zone; with several, the first in order."""
        owners = self._owners.get(address)
        return owners[min(owners)] if owners else None

    def find(self, labels: Sequence[str]) -> Records | None:
        """What a name has, by its labels above the zone in lower case; None: no such name."""
        service = self.services.get(labels[-1])
        if service is None:
            return None
        rest = list(labels[:-1])
        tasks = bool(rest) and rest[-1] == TASKS
        if tasks:
            rest.pop()
        if not rest:
            families = {v: service.of_family(v, tasks=tasks) for v in (4, 6)}
            return Records(families)
        if rest[-1].startswith("_"):
            return _srv(labels[-1], service, rest, tasks=tasks or not service.addresses)
        if tasks and len(rest) == 1:
            return _one_endpoint(service, rest[0])
        return None


def label(address: str) -> str:
    """The label that stands for an address: `10-5-1-2`."""
    text = address.replace(".", "-").replace(":", "-")
    # a label neither begins nor ends with a hyphen (RFC 1123): `::1`, `fd05::`
    return ("0" if text[0] == "-" else "") + text + ("0" if text[-1] == "-" else "")


def _own_names(name: str, service: NamedService | None) -> dict[str, str]:
    if service is None:
        return {}
    found = {
        address: f"{label(address)}.{TASKS}.{name}"
        for one in service.ready
        for address in one.addresses
    }
    return found | dict.fromkeys(service.addresses, name)


def _one_endpoint(service: NamedService, name: str) -> Records | None:
    for one in service.ready:
        for address in one.addresses:
            if label(address) == name:
                return Records({ip_address(address).version: [address]})
    return None


def _srv(name: str, service: NamedService, rest: Sequence[str], *, tasks: bool) -> Records | None:
    """`_port._protocol`, or `_protocol`, which has nothing but names below it."""
    ports = [port for port in service.ports if f"_{port.protocol}" == rest[-1]]
    if len(rest) == 1:
        return Records() if ports else None
    ports = [port for port in ports if f"_{port.name}" == rest[0]]
    if len(rest) > 2 or not ports:
        return None
    found = []
    for port in ports:
        if not tasks:
            found.append(Srv(name, port.port))
            continue
        for one in service.ready[:MAX_ANSWERS]:
            number = one.ports.get(port.name, port.target_port)
            found += [Srv(f"{label(a)}.{TASKS}.{name}", number) for a in one.addresses]
    return Records(srv=found[:MAX_ANSWERS])
