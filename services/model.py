# SPDX-License-Identifier: Apache-2.0
"""What a service and an endpoint are: values only. `services.codec` reads and writes them.

A service is reached under virtual addresses (one of a family at most), on ports; an endpoint is one
server behind it, under addresses of its own. docs/services.md is the public description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from base.errors import FlatmeshError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Numbers of IP protocols (IANA) by the names that ports have."""
MAX_PORTS = 32
"""Ports of one service. A write is one transaction, and etcd counts its steps (--max-txn-ops)."""
MAX_WEIGHT = 100
MAX_SECONDS = 86400
"""Of an affinity and of draining."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
"""A service's name, and a port's: a label of a DNS name (RFC 1123)."""
ENDPOINT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


class ServiceError(FlatmeshError, ValueError):
    """A service or an endpoint that can't be used, or can't be had; one line."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service."""

    name: str
    """Unique within the service; the port's number and protocol where none was given."""
    protocol: str
    """A name of `PROTOCOLS`."""
    port: int
    """At the virtual addresses."""
    target_port: int
    """At the endpoints, unless an endpoint names another for this port."""
    published_port: int = 0
    """At the addresses of every host; 0: not published."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service."""

    name: str
    addresses: tuple[IPAddress, ...] = ()
    """Virtual addresses, one of a family at most, IPv4 first."""
    ports: tuple[ServicePort, ...] = ()
    affinity: bool = False
    """Whether a client's connections go to one endpoint, whatever their source ports."""
    selection: str = "hash"
    """How an endpoint is chosen: `hash` of the client's address and port, or `random`."""
    drain_seconds: int = 0
    """How long connections to a draining endpoint may go on, as its scheduler is asked to wait."""
    sources: tuple[IPNetwork, ...] = ()
    """Who may use published ports; empty: everybody."""

    def address(self, family: int) -> IPAddress | None:
        """The virtual address of a family (4 or 6)."""
        return next((one for one in self.addresses if one.version == family), None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server behind a service."""

    service: str
    id: str
    """Unique within the service; the scheduler's own name for it."""
    addresses: tuple[IPAddress, ...]
    """One of a family at most, IPv4 first."""
    ports: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Target ports by the port's name, where they differ from the service's."""
    host: str = ""
    """Address of the host that it runs on, as in the host's lease; empty: unknown."""
    draining: bool = False
    """Whether it takes no new connections."""
    weight: int = 1
    """Its share of new connections, beside the other endpoints' weights."""

    def address(self, family: int) -> IPAddress | None:
        """Its address of a family (4 or 6)."""
        for one in self.addresses:  # a generator would take twice as long, for 100,000 endpoints
            if one.version == family:
                return one
        return None

    def port(self, port: ServicePort) -> int:
        """Where it serves a port of its service."""
        return self.ports.get(port.name, port.target_port)
