# SPDX-License-Identifier: Apache-2.0
"""Where services are in etcd, below the cluster's prefix.

    <prefix>/services/<name>                        a service
    <prefix>/endpoints/<service>/<id>               an endpoint
    <prefix>/service-claims/port/<protocol>/<port>  which service has a published port: its name
    <prefix>/service-claims/address/<address>       which service has a virtual address: its name

A claim is written in the same transaction as its service, with a compare that it is free, so that
no two services can have one port or address however many write at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.model import ENDPOINT_ID, NAME, Service, ServiceError


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys below one prefix, which has no slash at its end."""

    prefix: str

    @property
    def services(self) -> str:
        """What every service's key begins with."""
        return f"{self.prefix}/services/"

    @property
    def endpoints(self) -> str:
        """What every endpoint's key begins with."""
        return f"{self.prefix}/endpoints/"

    @property
    def address_claims(self) -> str:
        """What the keys of claims on virtual addresses begin with."""
        return f"{self.prefix}/service-claims/address/"

    def service(self, name: str) -> str:
        """A service's key."""
        return self.services + name

    def endpoints_of(self, service: str) -> str:
        """What the keys of one service's endpoints begin with."""
        return f"{self.endpoints}{service}/"

    def endpoint(self, service: str, endpoint_id: str) -> str:
        """An endpoint's key."""
        return self.endpoints_of(service) + endpoint_id

    def claims(self, service: Service) -> frozenset[str]:
        """The keys that a service holds beside its own."""
        ports = f"{self.prefix}/service-claims/port"
        return frozenset(
            [f"{self.address_claims}{address}" for address in service.addresses]
            + [
                f"{ports}/{port.protocol}/{port.published_port}"
                for port in service.ports
                if port.published_port
            ]
        )

    def claim_text(self, claim: str) -> str:
        """A claim's key as words: `published port tcp/8080`, `virtual address 10.96.0.1`."""
        kind, _, what = claim.removeprefix(f"{self.prefix}/service-claims/").partition("/")
        return f"{'published port' if kind == 'port' else 'virtual address'} {what}"

    def service_name(self, key: str) -> str:
        """The name in a service's key. Raises ServiceError."""
        return checked_name(key.removeprefix(self.services))

    def endpoint_name(self, key: str) -> tuple[str, str]:
        """Service and id in an endpoint's key. Raises ServiceError."""
        service, _, endpoint_id = key.removeprefix(self.endpoints).partition("/")
        return checked_name(service), checked_id(endpoint_id)


def checked_name(name: str) -> str:
    """The name of a service. Raises ServiceError."""
    if not NAME.fullmatch(name):
        raise ServiceError(
            f"service name {name[:80]!r}: use at most 63 lower-case letters, digits and '-', "
            "with a letter or digit at both ends"
        )
    return name


def checked_id(endpoint_id: str) -> str:
    """The id of an endpoint. Raises ServiceError."""
    if not ENDPOINT_ID.fullmatch(endpoint_id):
        raise ServiceError(
            f"endpoint id {endpoint_id[:80]!r}: use at most 128 letters, digits, '_', '.' and '-', "
            "beginning with a letter or digit"
        )
    return endpoint_id
