"""The cluster config: what the operator writes to `<prefix>/config`.

    {"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}

Keys, defaults and limits are flanneld's (flannel, pkg/subnet/config.go; Documentation,
"Configuration"), and like it we match names without regard to case. Unknown keys are
tolerated: another version may know them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, TypeVar, cast

DEFAULT_BACKEND = "udp"
Value = TypeVar("Value", bool, int, str)
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class ConfigError(ValueError):
    """A cluster config we can't work with; the message is one line: what, where, the mend."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The cluster config with its defaults filled in."""

    enable_ipv4: bool = True
    enable_ipv6: bool = False
    enable_nftables: bool = False
    network: IPv4Network | None = None
    subnet_len: int = 0
    """Prefix length of each host's subnet, bits."""
    subnet_min: IPv4Address | None = None
    """Base address of the first subnet that may be leased."""
    subnet_max: IPv4Address | None = None
    ipv6_network: IPv6Network | None = None
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: IPv6Address | None = None
    ipv6_subnet_max: IPv6Address | None = None
    backend_type: str = DEFAULT_BACKEND
    backend: Mapping[str, Any] = field(default_factory=dict)
    """The Backend object as written; read it with `option`."""

    def __hash__(self) -> int:
        """Hash what hashes; the Backend object does not."""
        return hash((self.network, self.ipv6_network, self.backend_type))


def option(
    config: NetworkConfig,
    name: str,
    default: Value,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
) -> Value:
    """Read one key of the Backend object, of the type of `default`.

    Raises ConfigError for another type, or a number out of range.
    """
    where = f"Backend.{name} in the cluster config"
    value = _lowered(config.backend).get(name.lower())
    if value is None:
        return default
    # bool is an int to Python, but not to whoever wrote the config
    if type(value) is not type(default):
        raise ConfigError(f"{where} is {value!r}: write a {_json_type(default)}")
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = minimum, maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise ConfigError(f"{where} is {value}: must be from {low} to {high}")
    return value


def parse_config(text: str | bytes) -> NetworkConfig:
    """Read and check a cluster config. Raises ConfigError."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"cluster config is not JSON: {error}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"cluster config is not a JSON object but a {_json_type(raw)}")
    keys = _lowered(raw)
    ipv4, ipv6 = _flag(keys, "EnableIPv4", default=True), _flag(keys, "EnableIPv6", default=False)
    if not ipv4 and not ipv6:
        raise ConfigError("cluster config: EnableIPv4 and EnableIPv6 are both false; enable one")
    backend = keys.get("backend") or {}
    if not isinstance(backend, Mapping):
        raise ConfigError(f'Backend in the cluster config is {backend!r}: write {{"Type":"vxlan"}}')
    kind = _lowered(backend).get("type") or DEFAULT_BACKEND
    if not isinstance(kind, str):
        raise ConfigError(f"Backend.Type in the cluster config is {kind!r}: write a string")
    v4 = _family(keys, 4, ipv4)
    v6 = _family(keys, 6, ipv6)
    return NetworkConfig(
        ipv4,
        ipv6,
        _flag(keys, "EnableNFTables", default=False),
        *cast("tuple[IPv4Network | None, int, IPv4Address | None, IPv4Address | None]", v4),
        *cast("tuple[IPv6Network | None, int, IPv6Address | None, IPv6Address | None]", v6),
        kind.lower(),
        dict(backend),
    )


def _family(
    keys: Mapping[str, Any], version: int, enabled: bool
) -> tuple[Network | None, int, Address | None, Address | None]:
    """Network, subnet length, first and last subnet of one family."""
    if not enabled:
        return None, 0, None, None
    name, prefix = ("Network", "") if version == 4 else ("IPv6Network", "IPv6")
    network = _network(keys, name, version)
    # a host's subnet is at most a 30 (126), and there must be four at least: hence the 28 (124)
    largest, roomy, usual = (28, 22, 24) if version == 4 else (124, 62, 64)
    if network.prefixlen > largest:
        raise ConfigError(
            f"{name} {network} in the cluster config is too small: at most /{largest}"
        )
    length = _integer(keys, f"{prefix}SubnetLen")
    if length is None:
        length = usual if network.prefixlen <= roomy else network.prefixlen + 2
    if not network.prefixlen + 2 <= length <= largest + 2:
        raise ConfigError(
            f"{prefix}SubnetLen {length} in the cluster config does not fit {name} {network}: "
            f"must be from {network.prefixlen + 2} to {largest + 2}"
        )
    size = 1 << (network.max_prefixlen - length)
    base, last = int(network.network_address), int(network.broadcast_address) + 1 - size
    kind = type(network.network_address)
    # the first subnet is left out, as flanneld does: its base is the network's own address
    low = _bound(keys, f"{prefix}SubnetMin", network, size) or kind(base + size)
    high = _bound(keys, f"{prefix}SubnetMax", network, size) or kind(last)
    if int(low) > int(high):
        raise ConfigError(
            f"{prefix}SubnetMin {low} in the cluster config lies beyond {prefix}SubnetMax {high}"
        )
    return network, length, low, high


def _network(keys: Mapping[str, Any], name: str, version: int) -> Network:
    example = "10.5.0.0/16" if version == 4 else "fd05::/48"
    value = keys.get(name.lower())
    if value is None:
        raise ConfigError(f'cluster config has no {name}: add "{name}":"{example}"')
    try:
        network = ip_network(value, strict=False)  # like flanneld: host bits are dropped
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} in the cluster config: {error}; write {example}") from None
    if network.version != version:
        raise ConfigError(f"{name} {value} in the cluster config is IPv{network.version}")
    return network


def _bound(keys: Mapping[str, Any], name: str, network: Network, size: int) -> Address | None:
    value = keys.get(name.lower())
    if value is None or value == "":
        return None
    try:
        address = ip_address(value)
    except ValueError as error:
        raise ConfigError(f"{name} in the cluster config: {error}") from None
    if address not in network:
        raise ConfigError(f"{name} {address} in the cluster config is not within {network}")
    if int(address) % size:
        below = type(address)(int(address) - int(address) % size)
        raise ConfigError(
            f"{name} {address} in the cluster config is no subnet's base; the one below is {below}"
        )
    return address


def _flag(keys: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = keys.get(name.lower(), default)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} in the cluster config is {value!r}: write true or false")
    return value


def _integer(keys: Mapping[str, Any], name: str) -> int | None:
    value = keys.get(name.lower())
    if value is None or value == 0:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} in the cluster config is {value!r}: write a number")
    return value


def _lowered(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower(): value for name, value in mapping.items()}


def _json_type(value: Any) -> str:
    names = {bool: "true or false", int: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
