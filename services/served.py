# SPDX-License-Identifier: Apache-2.0
"""Which services a host serves: what is in etcd, as far as it is right and nobody else's.

Two services with one published port or virtual address can't both be served; the older one is, on
every host. The writers' claims (`services.keys`) keep that from happening; this is for writers that
made none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from services import codec
from services.follow import KeyChanges
from services.keys import Keys
from services.model import Endpoint, IPNetwork, Service, ServiceError
from services.virtual_addresses import usable


@dataclass(frozen=True, slots=True)
class ServedService:
    """A service with its endpoints."""

    service: Service
    since: tuple[int, str]
    """Its key's create_revision, and its name: the smaller one has a disputed port or address."""
    endpoints: tuple[Endpoint, ...] = ()
    """In the order of their ids."""


@dataclass(slots=True)
class KnownServices:
    """What is in etcd, kept up by the changes. For one thread at a time."""

    keys: Keys
    services: dict[str, tuple[Service, int]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Endpoint]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Why a key is not served, as one line."""

    def take_services(self, changes: KeyChanges) -> set[str]:
        """Take in changes below `Keys.services`; returns the names of what is different now."""
        found: dict[str, tuple[Service, int] | None] = {}
        for key, kv in changes.keys.items():
            name = key.removeprefix(self.keys.services)
            found[name] = None
            self.refused.pop(key, None)
            if kv is not None:
                try:
                    service = codec.parse_service(self.keys.service_name(key), kv.value)
                    found[name] = (service, kv.create_revision)
                except ServiceError as error:
                    self.refused[key] = str(error)
        if changes.every is not None:
            self._forget_refused(self.keys.services, changes.every)
            every = {key.removeprefix(self.keys.services) for key in changes.every}
            found |= dict.fromkeys(self.services.keys() - every)
        changed = {name for name, one in found.items() if self.services.get(name) != one}
        for name in changed:
            one = found[name]
            if one is None:
                self.services.pop(name, None)
            else:
                self.services[name] = one
        return changed

    def take_endpoints(self, changes: KeyChanges) -> set[str]:
        """Take in changes below `Keys.endpoints`; returns the services' names."""
        changed = set()
        gone = self._not_among(changes.every) if changes.every is not None else []
        for key, kv in (*changes.keys.items(), *((key, None) for key in gone)):
            self.refused.pop(key, None)
            one = None
            try:
                service, endpoint_id = self.keys.endpoint_name(key)
                if kv is not None:
                    one = codec.parse_endpoint(service, endpoint_id, kv.value)
            except ServiceError as error:
                self.refused[key] = str(error)
                service, _, endpoint_id = key.removeprefix(self.keys.endpoints).partition("/")
            mine = self.endpoints.setdefault(service, {})
            if mine.get(endpoint_id) == one:
                continue
            if one is None:
                del mine[endpoint_id]
            else:
                mine[endpoint_id] = one
            changed.add(service)
        return changed

    def _not_among(self, every: Collection[str]) -> list[str]:
        """Keys of endpoints that are known, but not there."""
        self._forget_refused(self.keys.endpoints, every)
        return [
            key
            for service, endpoints in self.endpoints.items()
            for one in endpoints
            if (key := self.keys.endpoint(service, one)) not in every
        ]

    def _forget_refused(self, prefix: str, keys: Collection[str]) -> None:
        for key in [k for k in self.refused if k.startswith(prefix) and k not in keys]:
            del self.refused[key]

    def get(self, name: str) -> ServedService | None:
        """One service as it is now."""
        found = self.services.get(name)
        if found is None:
            return None
        service, since = found
        endpoints = self.endpoints.get(name, {})
        return ServedService(
            service, (since, name), tuple(endpoints[key] for key in sorted(endpoints))
        )


def disputed(
    services: Iterable[ServedService],
    networks: Collection[IPNetwork],
    reserved: Mapping[tuple[str, int], str],
) -> tuple[dict[str, Service], dict[str, str]]:
    """The services as they may be served, by name; and what is left out, with the reason.

    `networks` are those of virtual addresses; `reserved` are (protocol, port) that hosts need
    themselves, with what for.
    """
    keys = Keys("")
    held: dict[str, str] = {}
    allowed: dict[str, Service] = {}
    problems: dict[str, str] = {}
    for one in sorted(services, key=lambda each: each.since):
        service, name = one.service, one.service.name
        addresses = []
        for address in service.addresses:
            if not any(n.version == address.version and usable(address, n) for n in networks):
                problems[f"{name} {address}"] = (
                    f"service {name}: {address} is outside of the cluster's service network"
                )
                continue
            addresses.append(address)
        ports = []
        for port in service.ports:
            use = reserved.get((port.protocol, port.published_port))
            ports.append(port if use is None else replace(port, published_port=0))
            if use is not None:
                text = f"service {name}: published port {port.protocol}/{port.published_port}"
                problems[f"{name} {port.name}"] = f"{text} is not served: hosts use it for {use}"
        service = replace(service, addresses=tuple(addresses), ports=tuple(ports))
        for claim in sorted(keys.claims(service)):
            holder = held.setdefault(claim, name)
            if holder != name:
                text = keys.claim_text(claim)
                problems[f"{name} {text}"] = f"service {name}: {text} is service {holder}'s"
                service = _without(service, claim, keys)
        allowed[name] = service
    return allowed, problems


def _without(service: Service, claim: str, keys: Keys) -> Service:
    """The service without the address or published port that is another's."""
    addresses = tuple(one for one in service.addresses if claim != f"{keys.address_claims}{one}")
    ports = tuple(
        replace(port, published_port=0)
        if claim.endswith(f"/port/{port.protocol}/{port.published_port}")
        else port
        for port in service.ports
    )
    return replace(service, addresses=addresses, ports=ports)
