# SPDX-License-Identifier: Apache-2.0
"""Services and endpoints in etcd: what `flatmesh service` and schedulers read and write with.

    async with connect(settings) as etcd:
        registry = ServiceRegistry(etcd, settings.prefix, networks)
        await registry.set_service(Service("web", ports=(ServicePort("http", "tcp", 80, 8080),)))
        lease = await etcd.grant(10)
        await registry.set_endpoint(Endpoint("web", "a", (ip_address("10.5.1.2"),)), lease=lease)

Theory of operation: a service is written in one transaction with claims on its published ports and
virtual addresses (`services.keys`), each compared with what was read before. So two services that
are written at once never get the same port or address: the second finds the claim, and is refused.
A claim whose service is gone, or no longer has the port or address, is taken over: somebody deleted
the service's key alone.

Used by one event loop's tasks. All methods raise EtcdError; what is stored and can't be read is
left out of lists.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from etcd.client import Etcd, KeyValue, Transaction
from services import codec
from services.keys import Keys, checked_id, checked_name
from services.model import Endpoint, IPNetwork, Service, ServiceError
from services.virtual_addresses import claimed_addresses, with_addresses

ATTEMPTS = 20
"""Times that a write is tried while others change the same keys."""

log = logging.getLogger("services.registry")


class ServiceRegistry:
    """The services below one prefix."""

    def __init__(self, etcd: Etcd, prefix: str, networks: Sequence[IPNetwork] = ()) -> None:
        """`networks` are those that virtual addresses are taken from, one of a family at most.

        They are the cluster config's ServiceNetwork and IPv6ServiceNetwork; without them services
        have no virtual addresses, only published ports.
        """
        self.etcd = etcd
        self.keys = Keys(prefix.rstrip("/"))
        self.networks = tuple(networks)

    # -- services --------------------------------------------------------------------

    async def services(self) -> dict[str, Service]:
        """All services by name."""
        found, _ = await self.etcd.list(self.keys.services)
        services = {}
        for kv in found:
            service = self._decoded(kv)
            if service is not None:
                services[service.name] = service
        return services

    async def service(self, name: str) -> Service:
        """One service. Raises ServiceError when there is none, or it can't be read."""
        found, _ = await self.etcd.get(self.keys.service(checked_name(name)))
        if found is None:
            raise _missing(name)
        return codec.parse_service(name, found.value)

    async def set_service(self, service: Service) -> Service:
        """Create or replace a service; returns it as it is stored, with its virtual addresses.

        An address that it has none of is taken from the network of that family; one that it has
        stays. Raises ServiceError: it can't be served, or another service has the same published
        port or virtual address.
        """
        checked_name(service.name)
        codec.check_service(service)
        codec.parse_service(service.name, codec.format_service(service))
        for _ in range(ATTEMPTS):
            stored = await self._set_once(service)
            if stored is not None:
                return stored
        raise ServiceError(f"service {service.name}: others keep changing it; try again")

    async def _set_once(self, service: Service) -> Service | None:
        """Write it; None where something changed meanwhile."""
        key = self.keys.service(service.name)
        before, _ = await self.etcd.get(key)
        stored = self._decoded(before) if before is not None else None
        taken = claimed_addresses(await self._address_claims(service))
        wanted = with_addresses(service, stored, self.networks, taken)
        claims = self.keys.claims(wanted)
        conditions = {key: _revision(before)}
        chosen = self.keys.claims(wanted) - self.keys.claims(service)
        chosen -= self.keys.claims(stored) if stored is not None else frozenset()
        for claim in sorted(claims):
            try:
                conditions |= await self._free_or_ours(claim, service.name)
            except ServiceError:
                if claim in chosen:  # another has just taken the address that was free
                    return None
                raise
        gone = await self._ours(self.keys.claims(stored) - claims if stored else (), service.name)
        value, name = codec.format_service(wanted), service.name.encode()
        transaction = Transaction(
            unchanged=conditions | gone,
            put={key: value, **dict.fromkeys(claims, name)},
            delete=list(gone),
        )
        if await self.etcd.commit(transaction) is not None:
            return wanted
        now, _ = await self.etcd.get(key)
        done_before = (
            now is not None and now.value == value and now.mod_revision > _revision(before)
        )
        return wanted if done_before else None

    async def _address_claims(self, service: Service) -> list[str]:
        """The claims on virtual addresses, where the service may need a new one."""
        if len(service.addresses) == len(self.networks):
            return []
        found, _ = await self.etcd.list(self.keys.address_claims, keys_only=True)
        return [kv.key for kv in found]

    async def _free_or_ours(self, claim: str, name: str) -> dict[str, int]:
        """The revisions under which the service may have the claim.

        Raises ServiceError when another service has it.
        """
        held, _ = await self.etcd.get(claim)
        if held is None or held.value == name.encode():
            return {claim: _revision(held)}
        other = held.value.decode(errors="replace")
        key = self.keys.service(other)
        found, _ = await self.etcd.get(key)
        holder = self._decoded(found) if found is not None else None
        if found is not None and (holder is None or claim in self.keys.claims(holder)):
            raise ServiceError(
                f"service {name}: {self.keys.claim_text(claim)} is service {other[:80]}'s: "
                "choose another, or remove that service"
            )
        return {claim: held.mod_revision, key: _revision(found)}

    async def _ours(self, claims: Iterable[str], name: str) -> dict[str, int]:
        """Those of some claims that the service really has, with their revisions."""
        found = {}
        for claim in sorted(claims):
            held, _ = await self.etcd.get(claim)
            if held is not None and held.value == name.encode():
                found[claim] = held.mod_revision
        return found

    async def remove_service(self, name: str) -> bool:
        """Remove a service, its claims and its endpoints; says whether it was there."""
        key = self.keys.service(checked_name(name))
        for _ in range(ATTEMPTS):
            found, _ = await self.etcd.get(key)
            if found is None:
                return False
            stored = self._decoded(found)
            claims = await self._ours(self.keys.claims(stored) if stored else (), name)
            transaction = Transaction(
                unchanged={key: found.mod_revision, **claims},
                delete=[key, *claims],
                delete_below=[self.keys.endpoints_of(name)],
            )
            if await self.etcd.commit(transaction) is not None:
                return True
        raise ServiceError(f"service {name}: others keep changing it; try again")

    def _decoded(self, kv: KeyValue) -> Service | None:
        try:
            return codec.parse_service(self.keys.service_name(kv.key), kv.value)
        except ServiceError as error:
            log.debug("%s: %s", kv.key, error)
            return None

    # -- endpoints -------------------------------------------------------------------

    async def endpoints(self, service: str | None = None) -> list[Endpoint]:
        """All endpoints, or one service's, in the order of their keys."""
        prefix = self.keys.endpoints
        if service is not None:
            prefix = self.keys.endpoints_of(checked_name(service))
        found, _ = await self.etcd.list(prefix)
        endpoints = []
        for kv in found:
            try:
                endpoints.append(codec.parse_endpoint(*self.keys.endpoint_name(kv.key), kv.value))
            except ServiceError as error:
                log.debug("%s: %s", kv.key, error)
        return endpoints

    async def set_endpoint(self, endpoint: Endpoint, *, lease: int = 0) -> None:
        """Create or replace an endpoint of a service that is there.

        With `lease`, an etcd lease that the caller has granted and renews, it goes by itself when
        its owner dies. Raises ServiceError.
        """
        key = self.keys.endpoint(checked_name(endpoint.service), checked_id(endpoint.id))
        value = codec.format_endpoint(endpoint)
        codec.parse_endpoint(endpoint.service, endpoint.id, value)
        service = self.keys.service(endpoint.service)
        transaction = Transaction(present=[service], put={key: value}, lease=lease)
        if await self.etcd.commit(transaction) is None:
            raise _missing(endpoint.service)

    async def remove_endpoint(self, service: str, endpoint_id: str) -> bool:
        """Remove an endpoint; says whether it was there."""
        return await self.etcd.delete(
            self.keys.endpoint(checked_name(service), checked_id(endpoint_id))
        )


def _missing(name: str) -> ServiceError:
    return ServiceError(f"there is no service {name}: make it with flatmesh service set {name}")


def _revision(found: KeyValue | None) -> int:
    return found.mod_revision if found is not None else 0
