# SPDX-License-Identifier: Apache-2.0
"""Services and endpoints as JSON, as they are in etcd. Everything read is checked.

    {"VirtualIP": "10.96.0.5", "VirtualIPv6": "fd96::5",
     "Ports": [{"Name": "http", "Protocol": "tcp", "Port": 80, "TargetPort": 8080,
                "PublishedPort": 8080}],
     "Affinity": false, "Selection": "hash", "DrainSeconds": 30, "Sources": ["192.0.2.0/24"]}

    {"Address": "10.5.1.2", "AddressV6": "fd05:0:0:1::2", "Ports": {"http": 8081},
     "Host": "192.168.64.11", "State": "ready", "Weight": 1}

Keys match without regard to case, as in the cluster config; unknown ones are tolerated, but not one
that is nearly a known key.
"""

from __future__ import annotations

import functools
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from base.fields import Fields
from services.model import (
    MAX_PORTS,
    MAX_SECONDS,
    MAX_WEIGHT,
    NAME,
    PROTOCOLS,
    Endpoint,
    IPAddress,
    IPNetwork,
    Service,
    ServiceError,
    ServicePort,
)

MAX_VALUE = 64 * 1024
"""Bytes of one value in etcd."""
MAX_SOURCES = 64
SERVICE_KEYS = (
    *("VirtualIP", "VirtualIPv6", "Ports", "Affinity", "Selection", "DrainSeconds", "Sources"),
)
PORT_KEYS = ("Name", "Protocol", "Port", "TargetPort", "PublishedPort")
ENDPOINT_KEYS = ("Address", "AddressV6", "Ports", "Host", "State", "Weight")
_PORT_EXAMPLE = '{"Protocol":"tcp","Port":80}'


def parse_service(name: str, value: bytes) -> Service:
    """Read a service's value. Raises ServiceError."""
    plain = _PLAIN_SERVICE.fullmatch(value)
    if plain is not None and (found := _plain_service(name, plain)) is not None:
        return found
    fields = _fields(value, f"service {name}: ")
    fields.refuse_misspelt(SERVICE_KEYS)
    ports = tuple(_port(one) for one in fields.objects("Ports", _PORT_EXAMPLE))
    service = Service(
        name,
        _addresses(fields, "VirtualIP", "VirtualIPv6"),
        ports,
        fields.flag("Affinity", default=False),
        fields.choice("Selection", ("hash", "random"), "hash"),
        fields.number("DrainSeconds", 0, minimum=0, maximum=MAX_SECONDS),
        _sources(fields),
    )
    check_service(service)
    return service


_PLAIN_SERVICE = re.compile(rb'\{"VirtualIP":"([0-9.]{7,15})",("Ports":[^\n]{1,4096})')
"""What `format_service` writes for most services: an address, and the rest."""


def _plain_service(name: str, match: re.Match[bytes]) -> Service | None:
    """The same service as by reading field by field, in a fifth of the time; None: read it so.

    A host reads all services at its start, and most of them differ in their address only.
    """
    try:
        rest = _without_address(b"{" + match[2])
        address = _usable_ipv4(match[1])
    except (OSError, ValueError):  # the slow way tells what is wrong
        return None
    if rest.addresses:
        return None
    return replace(rest, name=name, addresses=(address,))


@functools.lru_cache(maxsize=1024)
def _without_address(value: bytes) -> Service:
    return parse_service("", value)


def check_service(service: Service) -> None:
    """Raise ServiceError for what no host can serve."""
    where = f"service {service.name}: "
    if not 1 <= len(service.ports) <= MAX_PORTS:
        raise ServiceError(f"{where}it has {len(service.ports)} ports; give 1 to {MAX_PORTS}")
    for what, given in (
        ("name", [one.name for one in service.ports]),
        ("port", [f"{one.protocol}/{one.port}" for one in service.ports]),
        (
            "published port",
            [f"{o.protocol}/{o.published_port}" for o in service.ports if o.published_port],
        ),
    ):
        twice = next((one for one in given if given.count(one) > 1), None)
        if twice is not None:
            raise ServiceError(f"{where}two ports have the {what} {twice}")
    if len({one.version for one in service.addresses}) != len(service.addresses):
        raise ServiceError(f"{where}it has two virtual addresses of a family")
    if service.affinity and service.selection == "random":
        raise ServiceError(f'{where}Affinity needs "Selection":"hash"')


def format_service(service: Service) -> bytes:
    """A service's value; `parse_service` reads it as the same service."""
    found: dict[str, Any] = _named_addresses(service.addresses, "VirtualIP", "VirtualIPv6")
    found["Ports"] = [
        {
            "Name": one.name,
            "Protocol": one.protocol,
            "Port": one.port,
            "TargetPort": one.target_port,
            **({"PublishedPort": one.published_port} if one.published_port else {}),
        }
        for one in service.ports
    ]
    if service.affinity:
        found["Affinity"] = True
    if service.selection != "hash":
        found["Selection"] = service.selection
    if service.drain_seconds:
        found["DrainSeconds"] = service.drain_seconds
    if service.sources:
        found["Sources"] = list(map(str, service.sources))
    return json.dumps(found, separators=(",", ":")).encode()


def parse_endpoint(service: str, endpoint_id: str, value: bytes) -> Endpoint:
    """Read an endpoint's value. Raises ServiceError."""
    plain = _PLAIN_ENDPOINT.fullmatch(value)
    if plain is not None and (found := _plain_endpoint(service, endpoint_id, plain)) is not None:
        return found
    fields = _fields(value, f"endpoint {service}/{endpoint_id}: ")
    fields.refuse_misspelt(ENDPOINT_KEYS)
    addresses = _addresses(fields, "Address", "AddressV6")
    if not addresses:
        raise ServiceError(f"{fields.where}it has no Address and no AddressV6")
    host = fields.text("Host", "")
    if host:
        host = str(_address(fields, "Host", host))
    return Endpoint(
        service,
        endpoint_id,
        addresses,
        _target_ports(fields),
        host,
        fields.choice("State", ("ready", "draining"), "ready") == "draining",
        fields.number("Weight", 1, minimum=1, maximum=MAX_WEIGHT),
    )


_PLAIN_ENDPOINT = re.compile(
    rb'\{"Address":"([0-9.]{7,15})"(?:,"Host":"([0-9a-f.:]{2,39})")?,"State":"(ready|draining)"\}'
)
"""What `format_endpoint` writes for most endpoints."""


def _plain_endpoint(service: str, endpoint_id: str, match: re.Match[bytes]) -> Endpoint | None:
    """The same endpoint as by reading field by field, in a tenth of the time; None: read it so.

    A host reads all endpoints at its start, and there may be 100,000.
    """
    text, host, state = match.groups()
    try:
        address = _usable_ipv4(text)
        found = _usable_host(host.decode()) if host else ""
    except (OSError, ValueError):
        return None
    return Endpoint(service, endpoint_id, (address,), {}, found, draining=state == b"draining")


def _usable_ipv4(text: bytes) -> IPv4Address:
    """An address that another host can send to. Raises ValueError, OSError."""
    packed = socket.inet_pton(socket.AF_INET, text.decode())
    first = packed[0]
    if first in (0, 127) or first >= 224 or packed[:2] == b"\xa9\xfe":
        raise ValueError(text)
    return IPv4Address(packed)


@functools.lru_cache(maxsize=8192)
def _usable_host(text: str) -> str:
    """A host's address; many endpoints have the same. Raises ValueError."""
    address = ip_address(text)
    if not _reachable(address):
        raise ValueError(text)
    return str(address)


def format_endpoint(endpoint: Endpoint) -> bytes:
    """An endpoint's value; `parse_endpoint` reads it as the same endpoint."""
    found: dict[str, Any] = _named_addresses(endpoint.addresses, "Address", "AddressV6")
    if endpoint.ports:
        found["Ports"] = dict(endpoint.ports)
    if endpoint.host:
        found["Host"] = endpoint.host
    found["State"] = "draining" if endpoint.draining else "ready"
    if endpoint.weight != 1:
        found["Weight"] = endpoint.weight
    return json.dumps(found, separators=(",", ":")).encode()


def _fields(value: bytes, where: str) -> Fields:
    if len(value) > MAX_VALUE:
        raise ServiceError(f"{where}{len(value)} bytes; at most {MAX_VALUE} are read")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        raise ServiceError(f"{where}it is not JSON") from None
    if not isinstance(document, Mapping):
        raise ServiceError(f"{where}it is not a JSON object")
    return Fields(document, where, ServiceError, ignore_case=True)


def _port(fields: Fields) -> ServicePort:
    fields.refuse_misspelt(PORT_KEYS)
    protocol = fields.choice("Protocol", tuple(PROTOCOLS), "tcp")
    if fields.value("Port") is None:
        raise fields.problem("Port", "from 1 to 65535")
    port = fields.number("Port", 0, minimum=1, maximum=65535)
    name = fields.text("Name", f"{port}-{protocol}")
    if not NAME.fullmatch(name):
        raise fields.problem("Name", "at most 63 lower-case letters, digits and '-'")
    return ServicePort(
        name,
        protocol,
        port,
        fields.number("TargetPort", port, minimum=1, maximum=65535),
        fields.number("PublishedPort", 0, minimum=0, maximum=65535),
    )


def _target_ports(fields: Fields) -> dict[str, int]:
    value = fields.value("Ports")
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_PORTS:
        raise fields.problem("Ports", f'an object like {{"http":8080}}, of at most {MAX_PORTS}')
    inner = Fields(value, f"{fields.where}Ports.", ServiceError)
    return {name: inner.number(name, 0, minimum=1, maximum=65535) for name in value}


def _addresses(fields: Fields, ipv4: str, ipv6: str) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    for name, version in ((ipv4, 4), (ipv6, 6)):
        text = fields.text(name)
        if not text:
            continue
        address = _address(fields, name, text)
        if address.version != version:
            raise fields.problem(name, f"an IPv{version} address")
        found.append(address)
    return tuple(found)


def _address(fields: Fields, name: str, text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise fields.problem(name, "an address") from None
    if not _reachable(address):
        raise fields.problem(name, "an address that another host can send to")
    return address


def _reachable(address: IPAddress) -> bool:
    special = address.is_multicast or address.is_loopback or address.is_unspecified
    return not (special or address.is_link_local or getattr(address, "ipv4_mapped", None))


def _sources(fields: Fields) -> tuple[IPNetwork, ...]:
    value = fields.value("Sources")
    if value is None:
        return ()
    wanted = f'a list of at most {MAX_SOURCES} networks such as "192.0.2.0/24"'
    if not isinstance(value, list) or len(value) > MAX_SOURCES:
        raise fields.problem("Sources", wanted)
    if not all(isinstance(one, str) for one in value):
        raise fields.problem("Sources", wanted)
    try:
        return tuple(map(ip_network, value))
    except ValueError:
        raise fields.problem("Sources", wanted) from None


def _named_addresses(addresses: tuple[IPAddress, ...], ipv4: str, ipv6: str) -> dict[str, Any]:
    return {ipv4 if one.version == 4 else ipv6: str(one) for one in addresses}
