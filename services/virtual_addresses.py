# SPDX-License-Identifier: Apache-2.0
"""Which virtual address a new service gets. Pure but for the random start."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from services.model import IPAddress, IPNetwork, Service, ServiceError


def free_address(network: IPNetwork, taken: Collection[IPAddress]) -> IPAddress:
    """A random address of the network that is not taken; never its first or last.

    Random, so that a name that is used again does not lead clients with an old answer to the
    service that came after. Raises ServiceError when there is none.
    """
    usable = network.num_addresses - 2
    start = secrets.randbelow(usable)
    for step in range(min(usable, len(taken) + 1)):
        address = network[1 + (start + step) % usable]
        if address not in taken:
            return address
    raise ServiceError(f"all {usable} virtual addresses of {network} are taken: remove services")


def with_addresses(
    service: Service,
    stored: Service | None,
    networks: Sequence[IPNetwork],
    taken: Collection[IPAddress],
) -> Service:
    """The service with an address of each network: its own, else the stored one's, else a new one.

    Raises ServiceError for an address that is not within the network of its family.
    """
    for address in service.addresses:
        require_within(service.name, address, networks)
    found: list[IPAddress] = []
    for network in networks:
        own = service.address(network.version)
        if own is None and stored is not None:
            kept = stored.address(network.version)
            own = kept if kept is not None and usable(kept, network) else None
        found.append(own if own is not None else free_address(network, taken))
    return replace(service, addresses=tuple(sorted(found, key=lambda one: one.version)))


def require_within(name: str, address: IPAddress, networks: Iterable[IPNetwork]) -> None:
    """Raise ServiceError for an address that can't be a virtual address here."""
    same = [network for network in networks if network.version == address.version]
    key = "ServiceNetwork" if address.version == 4 else "IPv6ServiceNetwork"
    if not same:
        raise ServiceError(
            f"service {name}: no virtual address {address} without {key} in the cluster config"
        )
    if not any(usable(address, network) for network in same):
        raise ServiceError(
            f"service {name}: virtual address {address} is not within {key} {same[0]}"
        )


def usable(address: IPAddress, network: IPNetwork) -> bool:
    """Whether an address of this network may be a virtual address."""
    return address in network and address not in (network[0], network[-1])


def claimed_addresses(claims: Iterable[str]) -> set[IPAddress]:
    """The addresses that claims' keys end with; what is no address is left out."""
    found: set[IPAddress] = set()
    for claim in claims:
        try:
            found.add(ip_address(claim.rpartition("/")[2]))
        except ValueError:
            continue
    return found
