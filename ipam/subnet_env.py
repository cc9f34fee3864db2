"""subnet.env: this host's lease, written by the daemon for CNI plugins.

Shell assignments, names and order as flanneld writes them (flannel, pkg/subnet/subnet.go);
the lines of a family that is not in use are left out. FLANNEL_SUBNET is the subnet's first
host address: the pods' gateway.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from ipam.lease import Lease
from ipam.network import NetworkConfig


class SubnetEnvError(ValueError):
    """A subnet.env that can't be read; the message names file, line and the mend."""


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """The contents of the file."""

    networks: tuple[IPv4Network, ...] = ()
    """Cluster networks; flanneld writes a comma-separated list where there are several."""
    subnet: IPv4Interface | None = None
    """First host address with the subnet's prefix length."""
    ipv6_networks: tuple[IPv6Network, ...] = ()
    ipv6_subnet: IPv6Interface | None = None
    mtu: int = 1500
    """Of pods, in bytes."""
    ip_masq: bool = False
    """Whether the daemon masquerades; a plugin must then not."""

    @classmethod
    def of(cls, config: NetworkConfig, lease: Lease, *, mtu: int, ip_masq: bool) -> SubnetEnv:
        """What a lease means for plugins."""
        v4, v6 = lease.subnet, lease.ipv6_subnet
        return cls(
            (config.network,) if config.network is not None and v4 is not None else (),
            IPv4Interface((int(v4.network_address) + 1, v4.prefixlen)) if v4 is not None else None,
            (config.ipv6_network,) if config.ipv6_network is not None and v6 is not None else (),
            IPv6Interface((int(v6.network_address) + 1, v6.prefixlen)) if v6 is not None else None,
            mtu,
            ip_masq,
        )

    @classmethod
    def parse(cls, text: str, name: str = "subnet.env") -> SubnetEnv:
        """Read the file's text. Raises SubnetEnvError."""
        values: dict[str, str] = {}
        for line in text.splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith("#"):
                values[key.removeprefix("export ").strip()] = value.strip().strip("\"'")
        try:
            env = cls(
                tuple(IPv4Network(n) for n in _list(values.get("FLANNEL_NETWORK"))),
                IPv4Interface(values["FLANNEL_SUBNET"]) if values.get("FLANNEL_SUBNET") else None,
                tuple(IPv6Network(n) for n in _list(values.get("FLANNEL_IPV6_NETWORK"))),
                IPv6Interface(values["FLANNEL_IPV6_SUBNET"])
                if values.get("FLANNEL_IPV6_SUBNET")
                else None,
                int(values.get("FLANNEL_MTU", "1500")),
                values.get("FLANNEL_IPMASQ", "false") == "true",
            )
        except ValueError as error:
            raise SubnetEnvError(f"{name}: {error}; flatmeshd writes it anew at start") from None
        if env.subnet is None and env.ipv6_subnet is None:
            raise SubnetEnvError(
                f"{name} has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET: "
                "is flatmeshd running and its lease acquired?"
            )
        return env

    @classmethod
    def read(cls, path: Path) -> SubnetEnv:
        """Read the file. Raises OSError, SubnetEnvError."""
        return cls.parse(path.read_text(), str(path))

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
        return "".join(f"{line}\n" for line in lines)

    def write(self, path: Path) -> None:
        """Replace the file atomically, mode 0644: a plugin never reads half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.format())
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
