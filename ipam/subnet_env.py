# SPDX-License-Identifier: Apache-2.0
"""subnet.env: the lease as shell variables, for CNI plugins and Docker.

    FLANNEL_NETWORK=10.5.0.0/16
    FLANNEL_SUBNET=10.5.72.1/24
    FLANNEL_IPV6_NETWORK=fd05::/48
    FLANNEL_IPV6_SUBNET=fd05:0:0:48::1/64
    FLANNEL_MTU=1450
    FLANNEL_IPMASQ=true
    FLATMESH_SERVICE_ZONE=flatmesh.internal

Order and format are flanneld's (pkg/subnet/subnet.go, WriteSubnetFile); lines of a family that
is off are left out, and so is the zone, ours, where services have no names. The subnet is written
as the address of its first host, which is the bridge's. FLANNEL_NETWORK may hold several networks,
parted by commas.

The file is replaced, never rewritten: a reader sees the old one or the new one, and a power
cut leaves one of the two.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from base.errors import FlatmeshError

if TYPE_CHECKING:  # a CNI executable without a daemon reads the file, and pays for imports
    from ipam.lease import Lease
    from ipam.network import NetworkConfig

DEFAULT_MTU = 1500  # bytes, for a file that doesn't say
MODE = 0o644  # every user's CNI plugin reads it
Parsed = TypeVar("Parsed", IPv4Network, IPv6Network, IPv4Interface, IPv6Interface)


class SubnetEnvError(FlatmeshError, ValueError):
    """A subnet.env that can't be used; one line: what, where, and the mend."""


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """What subnet.env says."""

    networks: tuple[IPv4Network, ...] = ()
    subnet: IPv4Interface | None = None
    """The first host of the leased subnet: `10.5.72.1/24`."""
    ipv6_networks: tuple[IPv6Network, ...] = ()
    ipv6_subnet: IPv6Interface | None = None
    mtu: int = DEFAULT_MTU
    """Bytes; of pods and their bridge."""
    ip_masq: bool = False
    """Whether the daemon masquerades what leaves the cluster (so plugins need not)."""
    service_zone: str = ""
    """The DNS zone of services, answered at the subnets' first hosts; empty: none is."""

    @classmethod
    def of(cls, config: NetworkConfig, lease: Lease, *, mtu: int, ip_masq: bool) -> SubnetEnv:
        """What a host that holds `lease` tells its plugins."""
        v4, v6 = lease.subnet, lease.ipv6_subnet
        return cls(
            (config.network,) if v4 and config.network else (),
            IPv4Interface((v4.network_address + 1, v4.prefixlen)) if v4 else None,
            (config.ipv6_network,) if v6 and config.ipv6_network else (),
            IPv6Interface((v6.network_address + 1, v6.prefixlen)) if v6 else None,
            mtu,
            ip_masq,
            config.service_zone,
        )

    @classmethod
    def read(cls, path: Path) -> SubnetEnv:
        """Read a file. Raises OSError, and SubnetEnvError for content that can't be used."""
        return cls.parse(path.read_bytes().decode(errors="replace"), str(path))

    @classmethod
    def parse(cls, text: str, name: str = "subnet.env") -> SubnetEnv:
        """Read the text of the file called `name`. Raises SubnetEnvError.

        Order, blank lines, comments, quotes and unknown variables are tolerated.
        """
        try:
            return _parse(text)
        except ValueError as error:
            raise SubnetEnvError(f"{name}: {error}; flatmeshd writes it anew at start") from None

    def format(self) -> str:
        """The file's text, byte for byte as flanneld writes it."""
        lines = []
        if self.subnet is not None:
            lines += [
                f"FLANNEL_NETWORK={','.join(map(str, self.networks))}",
                f"FLANNEL_SUBNET={self.subnet}",
            ]
        if self.ipv6_subnet is not None:
            lines += [
                f"FLANNEL_IPV6_NETWORK={','.join(map(str, self.ipv6_networks))}",
                f"FLANNEL_IPV6_SUBNET={self.ipv6_subnet}",
            ]
        lines += [f"FLANNEL_MTU={self.mtu}", f"FLANNEL_IPMASQ={str(self.ip_masq).lower()}"]
        if self.service_zone:
            lines.append(f"FLATMESH_SERVICE_ZONE={self.service_zone}")
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Replace the file atomically and durably, mode 0644. Raises OSError."""
        import tempfile  # noqa: PLC0415 - 10 ms that readers needn't pay

        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self.format())
                os.fchmod(file.fileno(), MODE)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name, too, survives a power cut
        finally:
            os.close(directory)


def _parse(text: str) -> SubnetEnv:
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if name and equals and not name.startswith("#"):
            values[name.removeprefix("export ").strip()] = value.strip().strip("\"'")
    env = SubnetEnv(
        _list(values, "FLANNEL_NETWORK", IPv4Network),
        _one(values, "FLANNEL_SUBNET", IPv4Interface),
        _list(values, "FLANNEL_IPV6_NETWORK", IPv6Network),
        _one(values, "FLANNEL_IPV6_SUBNET", IPv6Interface),
        _mtu(values),
        _flag(values, "FLANNEL_IPMASQ"),
        values.get("FLATMESH_SERVICE_ZONE", ""),
    )
    if env.subnet is None and env.ipv6_subnet is None:
        raise SubnetEnvError("has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET")
    return env


def _one(values: dict[str, str], name: str, kind: type[Parsed]) -> Parsed | None:
    text = values.get(name)
    if not text:
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise SubnetEnvError(f"{name}: {error}") from None


def _list(values: dict[str, str], name: str, kind: type[Parsed]) -> tuple[Parsed, ...]:
    try:
        return tuple(kind(part.strip()) for part in values.get(name, "").split(",") if part.strip())
    except ValueError as error:
        raise SubnetEnvError(f"{name}: {error}") from None


def _mtu(values: dict[str, str]) -> int:
    text = values.get("FLANNEL_MTU", str(DEFAULT_MTU))
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise SubnetEnvError(f"FLANNEL_MTU is {text!r}, not a number of bytes up to 65535")
    return int(text)


def _flag(values: dict[str, str], name: str) -> bool:
    text = values.get(name, "false").lower()
    if text not in ("true", "false"):
        raise SubnetEnvError(f"{name} is {text!r}, not true or false")
    return text == "true"
