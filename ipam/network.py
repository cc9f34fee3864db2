# SPDX-License-Identifier: Apache-2.0
"""The cluster config: one JSON document in etcd that all hosts share.

    <prefix>/config   {"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}

Keys, defaults and limits are flanneld's (flannel, Documentation/configuration.md and
pkg/subnet/config.go), so both read one document alike; keys match without regard to case,
as Go's encoding/json does. Unknown ones are tolerated, but not one that is nearly a known key:
`Bakend` would switch a cluster to udp. Beyond flanneld, IPv6 alone works.

A family that is not enabled has None for all its values: whoever looks at `network` or
`ipv6_network` needs no second flag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from base.errors import FlatmeshError
from base.fields import Fields

DEFAULT_BACKEND = "udp"  # flanneld's, for a config without Backend.Type


KEYS = (
    *("EnableIPv4", "EnableIPv6", "EnableNFTables", "IPMasq", "OpenToPods", "Backend"),
    *("Network", "SubnetLen", "SubnetMin", "SubnetMax"),
    *("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax"),
    *("ServiceNetwork", "IPv6ServiceNetwork", "ServiceZone"),
)
"""All keys of the document."""
OPENABLE = ("etcd", "metrics", "scheduler", "tunnels")
"""Names that the key OpenToPods takes, beside `tcp/PORT` and `udp/PORT`."""
_ZONE = re.compile(
    r"(?!.{201})([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
)
_PORT = re.compile(r"(tcp|udp)/([1-9][0-9]{0,4})", re.ASCII)


class ConfigError(FlatmeshError, ValueError):
    """A cluster config that can't be used; one line: what, where, and the mend."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The cluster config with every default filled in."""

    enable_ipv4: bool = True
    enable_ipv6: bool = False
    network: IPv4Network | None = None
    subnet_len: int = 0
    """Prefix length of one host's subnet; 0 when IPv4 is off."""
    subnet_min: IPv4Address | None = None
    """Base of the first subnet that may be leased."""
    subnet_max: IPv4Address | None = None
    """Base of the last subnet that may be leased."""
    ipv6_network: IPv6Network | None = None
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: IPv6Address | None = None
    ipv6_subnet_max: IPv6Address | None = None
    backend_type: str = DEFAULT_BACKEND
    """Lower case."""
    backend: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The Backend object as it stands in the document; read it with `options`."""
    ip_masq: bool | None = None
    """Key `IPMasq`, ours: whether hosts masquerade what leaves the cluster, whatever their own
    `--ip-masq` says. None: each host's flag decides. flanneld overlooks it."""
    open_to_pods: frozenset[str] = frozenset()
    """Key `OpenToPods`, ours: what pods may reach on hosts though it is closed by default: names of
    `OPENABLE`, and `tcp/PORT` or `udp/PORT`."""
    lengths_chosen: bool = True
    """Whether hosts choose their subnets, all of the configured length; else others have chosen
    them (the podCIDR of a node of Kubernetes), of whatever length."""
    service_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Keys `ServiceNetwork` and `IPv6ServiceNetwork`, ours: where services' virtual addresses are
    taken from, one of a family at most, IPv4 first."""
    service_zone: str = ""
    """Key `ServiceZone`, ours: the DNS zone of services' names, which each host then answers to its
    pods; empty: none does."""

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        """The cluster's network of each family that it has."""
        return [one for one in (self.network, self.ipv6_network) if one is not None]

    @property
    def names_backend(self) -> bool:
        """Whether the document says which backend it wants."""
        return any(name.lower() == "type" and value for name, value in self.backend.items())

    @property
    def options(self) -> Fields:
        """The keys of the Backend object; its methods raise ConfigError."""
        return Fields(self.backend, "cluster config: Backend.", ConfigError, ignore_case=True)


class _Family(NamedTuple):
    """What differs between the families."""

    prefix: str
    """Of the keys' names."""
    network: type[IPv4Network | IPv6Network]
    address: type[IPv4Address | IPv6Address]
    usual_len: int
    """SubnetLen where the network has room for at least four such subnets."""
    max_subnet_len: int
    max_network_len: int
    example: str


_IPV4 = _Family("", IPv4Network, IPv4Address, 24, 30, 28, "10.5.0.0/16")
_IPV6 = _Family("IPv6", IPv6Network, IPv6Address, 64, 126, 124, "fd05::/48")


class _Range(NamedTuple):
    """A network and the part of it that is leased out, in subnets."""

    network: Any
    subnet_len: int
    first: Any
    last: Any


def parse_config(text: str | bytes) -> NetworkConfig:
    """Read a cluster config. Raises ConfigError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"cluster config is not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise ConfigError(
            f"cluster config is {_kind(document)}, not a JSON object: "
            'write e.g. {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
        )
    Fields(document, "cluster config: ", ConfigError).refuse_misspelt(KEYS)
    keys = {name.lower(): value for name, value in document.items()}
    enable_ipv4 = _flag(keys, "EnableIPv4", default=True)
    enable_ipv6 = _flag(keys, "EnableIPv6", default=False)
    if not (enable_ipv4 or enable_ipv6):
        raise ConfigError("cluster config enables no family: set EnableIPv4 or EnableIPv6 to true")
    off = _Range(None, 0, None, None)
    v4 = _range(keys, _IPV4) if enable_ipv4 else off
    v6 = _range(keys, _IPV6) if enable_ipv6 else off
    backend_type, backend = _backend(keys)
    return NetworkConfig(
        enable_ipv4,
        enable_ipv6,
        *v4,
        *v6,
        backend_type,
        backend,
        _flag(keys, "IPMasq", default=False) if "ipmasq" in keys else None,
        _open_to_pods(keys, "OpenToPods"),
        service_networks=_service_networks(keys, {_IPV4: v4.network, _IPV6: v6.network}),
        service_zone=_service_zone(keys, "ServiceZone"),
    )


def document(config: NetworkConfig) -> dict[str, Any]:
    """The document that `parse_config` reads as this config, with every default written out."""
    found: dict[str, Any] = {"EnableIPv4": config.enable_ipv4, "EnableIPv6": config.enable_ipv6}
    for family in (_IPV4, _IPV6):
        network = config.network if family is _IPV4 else config.ipv6_network
        if network is None:
            continue
        prefix = "ipv6_" if family is _IPV6 else ""
        found[f"{family.prefix}Network"] = str(network)
        found[f"{family.prefix}SubnetLen"] = getattr(config, f"{prefix}subnet_len")
        found[f"{family.prefix}SubnetMin"] = str(getattr(config, f"{prefix}subnet_min"))
        found[f"{family.prefix}SubnetMax"] = str(getattr(config, f"{prefix}subnet_max"))
    if config.ip_masq is not None:
        found["IPMasq"] = config.ip_masq
    if config.open_to_pods:
        found["OpenToPods"] = sorted(config.open_to_pods)
    for services in config.service_networks:
        prefix = _IPV4.prefix if services.version == 4 else _IPV6.prefix
        found[f"{prefix}ServiceNetwork"] = str(services)
    if config.service_zone:
        found["ServiceZone"] = config.service_zone
    backend = {name: value for name, value in config.backend.items() if name.lower() != "type"}
    return {**found, "Backend": {"Type": config.backend_type, **backend}}


def _open_to_pods(keys: Mapping[str, Any], name: str) -> frozenset[str]:
    value = keys.get(name.lower())
    if value is None:
        return frozenset()
    wanted = f'a list of {", ".join(OPENABLE)}, and ports such as "tcp/2379"'
    if not isinstance(value, list):
        raise ConfigError(f"cluster config: {name} is {_kind(value)}; it must be {wanted}")
    for one in value:
        port = _PORT.fullmatch(one) if isinstance(one, str) else None
        if one not in OPENABLE and (port is None or int(port[2]) > 65535):
            text = json.dumps(one)[:200]
            raise ConfigError(f"cluster config: {name} has {text}; it must be {wanted}")
    return frozenset(value)


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def _flag(keys: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = keys.get(name.lower())
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(
            f"cluster config: {name} is {json.dumps(value)}; it must be true or false"
        )
    return value


def _backend(keys: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    backend = keys.get("backend")
    if backend is None:
        return DEFAULT_BACKEND, {}
    if not isinstance(backend, Mapping):
        raise ConfigError(
            f'cluster config: Backend is {_kind(backend)}; write e.g. "Backend":{{"Type":"vxlan"}}'
        )
    kind = next((v for k, v in backend.items() if k.lower() == "type"), None)
    if kind is not None and not isinstance(kind, str):
        raise ConfigError(f"cluster config: Backend.Type is {json.dumps(kind)}, not a string")
    return (kind or DEFAULT_BACKEND).lower(), dict(backend)


def _range(keys: Mapping[str, Any], family: _Family) -> _Range:
    network = _network(keys, family)
    subnet_len = _subnet_len(keys, family, network)
    size = 1 << (network.max_prefixlen - subnet_len)
    low, high = f"{family.prefix}SubnetMin", f"{family.prefix}SubnetMax"
    # the first subnet is left out, as flanneld does: its base is the network's own address
    first = _bound(keys, low, family, network, subnet_len) or network.network_address + size
    last = _bound(keys, high, family, network, subnet_len) or network.broadcast_address - (size - 1)
    if int(first) > int(last):
        raise ConfigError(f"cluster config: {low} {first} is above {high} {last}")
    return _Range(network, subnet_len, first, last)


def _service_networks(
    keys: Mapping[str, Any], pods: Mapping[_Family, IPv4Network | IPv6Network | None]
) -> tuple[IPv4Network | IPv6Network, ...]:
    found = []
    for family, network in pods.items():
        name = f"{family.prefix}ServiceNetwork"
        if keys.get(name.lower()) in (None, ""):
            continue
        services = _cidr(keys[name.lower()], name, family)
        if network is None:
            raise ConfigError(f"cluster config: {name} is given, but pods have no such addresses")
        if services.overlaps(network):
            raise ConfigError(f"cluster config: {name} {services} overlaps the pods' {network}")
        if services.max_prefixlen - services.prefixlen < 2:
            raise ConfigError(f"cluster config: {name} {services} has no room: use a larger one")
        found.append(services)
    return tuple(found)


def _service_zone(keys: Mapping[str, Any], name: str) -> str:
    value = keys.get(name.lower())
    if value is None or value == "":
        return ""
    zone = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if not _ZONE.fullmatch(zone):
        text = json.dumps(value)[:200]
        raise ConfigError(
            f'cluster config: {name} is {text}; write a DNS name, e.g. "flatmesh.internal"'
        )
    return zone


def _network(keys: Mapping[str, Any], family: _Family) -> IPv4Network | IPv6Network:
    name = f"{family.prefix}Network"
    value = keys.get(name.lower())
    if value is None or value == "":
        other = "IPv4" if family is _IPV4 else "IPv6"
        raise ConfigError(
            f'cluster config: {name} is missing: add e.g. "{name}":"{family.example}", '
            f'or turn the family off with "Enable{other}":false'
        )
    return _cidr(value, name, family)


def _cidr(value: object, name: str, family: _Family) -> IPv4Network | IPv6Network:
    if not isinstance(value, str) or "/" not in value:
        raise ConfigError(
            f"cluster config: {name} is {json.dumps(value)}; "
            f'write address and prefix length, e.g. "{family.example}"'
        )
    try:
        return family.network(value, strict=False)
    except ValueError as error:
        raise ConfigError(
            f'cluster config: {name} {value!r}: {error}; write e.g. "{family.example}"'
        ) from None


def _subnet_len(
    keys: Mapping[str, Any], family: _Family, network: IPv4Network | IPv6Network
) -> int:
    name = f"{family.prefix}SubnetLen"
    value = keys.get(name.lower()) or 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(
            f"cluster config: {name} is {json.dumps(value)}; "
            f"write a prefix length, e.g. {family.usual_len}"
        )
    if not value:
        if network.prefixlen > family.max_network_len:
            raise ConfigError(
                f"cluster config: {family.prefix}Network {network} is too small: "
                f"use /{family.max_network_len} or larger"
            )
        return max(family.usual_len, network.prefixlen + 2)
    if value > family.max_subnet_len:
        raise ConfigError(
            f"cluster config: {name} is {value}; it must be at most {family.max_subnet_len}"
        )
    if value < network.prefixlen + 2:
        raise ConfigError(
            f"cluster config: {name} is {value}, but {network} must hold at least four subnets: "
            f"use {network.prefixlen + 2} or more"
        )
    return value


def _bound(
    keys: Mapping[str, Any],
    name: str,
    family: _Family,
    network: IPv4Network | IPv6Network,
    subnet_len: int,
) -> Any:
    """The SubnetMin or SubnetMax given, None when there is none."""
    value = keys.get(name.lower())
    if value is None or value == "":
        return None
    try:
        address = family.address(str(value))
    except ValueError as error:
        raise ConfigError(f"cluster config: {name}: {error}") from None
    if address not in network:
        raise ConfigError(f"cluster config: {name} {address} is not within {network}")
    aligned = family.network((address, subnet_len), strict=False).network_address
    if aligned != address:
        raise ConfigError(
            f"cluster config: {name} {address} is not the base of a /{subnet_len}: use {aligned}"
        )
    return address
