# SPDX-License-Identifier: Apache-2.0
"""The lease of a subnet to a host: its etcd key and value.

A lease says: this host owns this pod subnet, and this is how to reach it. Key and value are
byte-compatible with flanneld's (flannel, pkg/lease and pkg/subnet/etcd), so that flatmesh
and flanneld hosts share one prefix. `"Ingress":true` is ours, and flanneld ignores it:

    <prefix>/subnets/10.5.76.0-24
        {"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",
         "BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}
    <prefix>/subnets/10.5.64.0-24&fc00:0:0:3::-64      dual stack
    <prefix>/subnets/fc00:0:0:3::-64                   IPv6 only (ours: flanneld's is broken)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from base.errors import FlatmeshError

KEY = re.compile(
    r"(?:(?P<v4>\d+\.\d+\.\d+\.\d+)-(?P<v4len>\d+))?"
    r"(?:(?P<amp>&)?(?P<v6>[a-f\d]*:[a-f\d:.]*)-(?P<v6len>\d+))?",
    re.ASCII,
)

MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
"""A MAC as backends write it into leases."""


class LeaseError(FlatmeshError, ValueError):
    """A key or value under the prefix that is no lease; the message says which and why."""


class PeerUnusableError(FlatmeshError):
    """A peer's lease that a backend can't use; the message is one line for the log."""


@dataclass(frozen=True, slots=True)
class LeaseAttributes:
    """The value of a lease: how to reach the host that holds it."""

    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    backend_type: str = ""
    """Empty means udp: flanneld's oldest backend writes no type."""
    backend_data: Any = None
    """JSON value, the backend's own, None when absent."""
    backend_v6_data: Any = None
    ingress: bool = False
    """Whether the host takes clients' packets from others (`services.mesh`); flanneld's don't."""

    @property
    def addresses(self) -> list[IPv4Address | IPv6Address]:
        """The host's PublicIP of each family that it has."""
        return [one for one in (self.public_ip, self.public_ipv6) if one is not None]

    def __hash__(self) -> int:
        """JSON values don't hash; the addresses tell leases apart well enough."""
        return hash((self.public_ip, self.public_ipv6, self.backend_type))


@dataclass(frozen=True, slots=True)
class Lease:
    """A subnet per enabled family, and the attributes of the host that owns them."""

    subnet: IPv4Network | None
    ipv6_subnet: IPv6Network | None
    attributes: LeaseAttributes = field(default_factory=LeaseAttributes)
    reserved: bool = False
    """An operator's reservation: it never expires."""
    origin: object = field(default=None, compare=False)
    """What the source that the lease comes from knows of it (`ipam.etcd_origin`); not part of what
    the lease says, and nobody else reads it."""
    since: int = field(default=0, compare=False)
    """Grows with the moment at which the lease was taken, where its source tells: older ones are
    believed first (`ipam.lease_claims`)."""

    @property
    def subnets(self) -> list[IPv4Network | IPv6Network]:
        """The subnet of each family that it has."""
        return [one for one in (self.subnet, self.ipv6_subnet) if one is not None]

    @property
    def key(self) -> str:
        """The last part of the etcd key."""
        return format_key(self.subnet, self.ipv6_subnet)


def format_key(subnet: IPv4Network | None, ipv6_subnet: IPv6Network | None) -> str:
    """`10.5.76.0-24`, `10.5.76.0-24&fc00::-64` or `fc00::-64`."""
    return "&".join(str(n).replace("/", "-") for n in (subnet, ipv6_subnet) if n is not None)


def parse_key(key: str) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets that a key names (its last path part).

    Raises LeaseError for anything else, host bits set included.
    """
    match = KEY.fullmatch(key)
    if not key or not match or (match["amp"] is not None) != bool(match["v4"] and match["v6"]):
        raise LeaseError(f"key {key!r} is not <IPv4>-<len>, optionally &<IPv6>-<len>")
    try:
        v4 = IPv4Network(f"{match['v4']}/{match['v4len']}") if match["v4"] else None
        v6 = IPv6Network(f"{match['v6']}/{match['v6len']}") if match["v6"] else None
    except ValueError as error:
        raise LeaseError(f"key {key!r}: {error}") from None
    return v4, v6


def format_value(attributes: LeaseAttributes) -> str:
    """The JSON that flanneld (Go's encoding/json) writes for these attributes, byte for byte."""
    value: dict[str, Any] = {
        "PublicIP": str(attributes.public_ip) if attributes.public_ip else "0.0.0.0",
        "PublicIPv6": str(attributes.public_ipv6) if attributes.public_ipv6 else None,
    }
    if attributes.backend_type and attributes.backend_type != "udp":
        value["BackendType"] = attributes.backend_type
    if attributes.backend_data is not None:
        value["BackendData"] = attributes.backend_data
    if attributes.backend_v6_data is not None:
        value["BackendV6Data"] = attributes.backend_v6_data
    if attributes.ingress:
        value["Ingress"] = True
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def parse_value(text: str | bytes) -> LeaseAttributes:
    """Attributes from a value. Field names match without regard to case, as in Go.

    Raises LeaseError when it isn't a JSON object with at least one usable public address.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LeaseError(f"value is not JSON: {error}") from None
    if not isinstance(raw, Mapping):
        raise LeaseError(f"value is not a JSON object but {type(raw).__name__}")
    value = {str(name).lower(): content for name, content in raw.items()}
    try:
        # str(): a JSON number is no address, though ipaddress would take it for one
        ip = IPv4Address(str(value["publicip"])) if value.get("publicip") else None
        ipv6 = IPv6Address(str(value["publicipv6"])) if value.get("publicipv6") else None
    except ValueError as error:
        raise LeaseError(f"PublicIP: {error}") from None
    if ip is not None and ip.is_unspecified:
        ip = None
    if ip is None and ipv6 is None:
        raise LeaseError("value has neither PublicIP nor PublicIPv6")
    backend_type = value.get("backendtype") or ""
    if not isinstance(backend_type, str):
        raise LeaseError("BackendType is not a string")
    return LeaseAttributes(
        ip,
        ipv6,
        backend_type,
        value.get("backenddata"),
        value.get("backendv6data"),
        value.get("ingress") is True,
    )


def parse(
    key: str,
    text: str | bytes,
    *,
    reserved: bool = False,
    since: int = 0,
    origin: object = None,
) -> Lease:
    """A lease from its key's last part and its value. Raises LeaseError."""
    subnet, ipv6_subnet = parse_key(key)
    return Lease(subnet, ipv6_subnet, parse_value(text), reserved, origin, since)


def same_host(one: LeaseAttributes, other: LeaseAttributes) -> bool:
    """Whether two leases are published under one host's address."""
    if one.public_ip is not None or other.public_ip is not None:
        return one.public_ip == other.public_ip
    return one.public_ipv6 is not None and one.public_ipv6 == other.public_ipv6


def is_held_by(
    theirs: LeaseAttributes, public_ip: IPv4Address | None, public_ipv6: IPv6Address | None
) -> bool:
    """Whether a lease's attributes name the host with these addresses."""
    return same_host(theirs, LeaseAttributes(public_ip, public_ipv6))


def held_by(
    leases: Mapping[str, Lease], public_ip: IPv4Address | None, public_ipv6: IPv6Address | None
) -> Lease | None:
    """The lease published under a host's address, if there is one."""
    held = (one for one in leases.values() if is_held_by(one.attributes, public_ip, public_ipv6))
    return next(held, None)
