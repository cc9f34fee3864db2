# SPDX-License-Identifier: Apache-2.0
"""The wireguard backend's options, and what a lease says of a host's WireGuard.

Names, defaults and meanings are flannel's (Documentation/backends.md, pkg/backend/wireguard):

    ListenPort                   51820   UDP port of `flannel-wg`
    ListenPortV6                 51821   UDP port of `flannel-wg-v6` (Mode separate)
    PSK                          ""      preshared key of the whole cluster, as `wg genpsk` prints
    PersistentKeepaliveInterval  0       seconds; 0 is off. For hosts behind NAT
    MTU                          0       bytes of the underlay; 0 takes the device's
    Mode                         separate   a device per family, IPv4 over IPv4, IPv6 over IPv6
                                 auto       one device for both; IPv4 underlay, or IPv6 where
                                            only that is public on both sides
                                 ipv4, ipv6 one device for both over that underlay

flanneld publishes a public key only and expects every host on the port of the config. We
publish our port too, and use a peer's where its lease says one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from hostnet.underlay import Underlay
from hostnet.wireguard.state import Endpoint, key_bytes
from ipam.lease import Lease, LeaseAttributes, PeerUnusableError
from ipam.network import ConfigError, NetworkConfig

NAME = "wireguard"
DEVICE, DEVICE_V6 = "flannel-wg", "flannel-wg-v6"
DEVICES = (DEVICE, DEVICE_V6)
PORT, PORT_V6 = 51820, 51821
OVERHEAD = 80
"""Bytes around a pod's packet: IPv6 40 (the larger), UDP 8, WireGuard header 16 and tag 16."""
IPNetwork = IPv4Network | IPv6Network
MODES = ("separate", "auto", "ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class WireguardConfig:
    """The Backend object of the cluster config, checked."""

    listen_port: int = PORT
    listen_port_v6: int = PORT_V6
    psk: str | None = field(default=None, repr=False)
    keepalive: int = 0
    """Seconds."""
    underlay_mtu: int = 0
    """Bytes; 0 takes the underlay device's."""
    mode: str = "separate"
    network: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False

    @classmethod
    def of(cls, config: NetworkConfig) -> WireguardConfig:
        """Read the options. Raises ConfigError."""
        options = config.options
        mode = options.text("Mode", "").lower() or "separate"
        if mode not in MODES:
            raise ConfigError(
                f"cluster config: Backend.Mode is {mode!r}; it must be one of {', '.join(MODES)}"
            )
        psk = options.text("PSK") or None
        if psk is not None:
            try:
                key_bytes(psk)
            except ValueError as error:
                raise ConfigError(
                    f"cluster config: Backend.PSK is {error}; `wg genpsk` makes one"
                ) from None
        result = cls(
            listen_port=options.number("ListenPort", PORT, minimum=1, maximum=65535),
            listen_port_v6=options.number("ListenPortV6", PORT_V6, minimum=1, maximum=65535),
            psk=psk,
            keepalive=options.number("PersistentKeepaliveInterval", 0, minimum=0, maximum=65535),
            underlay_mtu=options.number("MTU", 0, minimum=0, maximum=65535),
            mode=mode,
            network=config.network,
            ipv6_network=config.ipv6_network,
            enable_ipv4=config.enable_ipv4,
            enable_ipv6=config.enable_ipv6,
        )
        both = result.mode == "separate" and result.enable_ipv4 and result.enable_ipv6
        if both and result.listen_port == result.listen_port_v6:
            raise ConfigError(
                f"cluster config: Backend.ListenPort and ListenPortV6 are both {result.listen_port}"
                "; each device needs a port of its own"
            )
        return result

    @property
    def ports(self) -> dict[str, int]:
        """The devices of this host, and the port each listens on."""
        if self.mode != "separate":
            return {DEVICE: self.listen_port}
        found = {DEVICE: self.listen_port} if self.enable_ipv4 else {}
        return found | ({DEVICE_V6: self.listen_port_v6} if self.enable_ipv6 else {})

    def shared(self, peer: Lease, own: Lease) -> list[IPNetwork]:
        """The peer's subnets of the families that both hosts and the config have."""
        pairs = (
            (peer.subnet, own.subnet, self.enable_ipv4),
            (peer.ipv6_subnet, own.ipv6_subnet, self.enable_ipv6),
        )
        return [theirs for theirs, ours, on in pairs if theirs and ours and on]

    def device(self, family: int) -> str:
        """The device that carries a family's (4 or 6) packets."""
        return DEVICE_V6 if self.mode == "separate" and family == 6 else DEVICE

    @property
    def publishes_ipv6(self) -> bool:
        """Whether peers may need our IPv6 address on the underlay."""
        return self.enable_ipv6 or self.mode in ("auto", "ipv6")

    def mtu(self, underlay: Underlay) -> int:
        """The MTU of the tunnel, in bytes."""
        return (self.underlay_mtu or underlay.mtu) - OVERHEAD


class WireguardTunnel(NamedTuple):
    """What one device needs to know of one peer."""

    device: str
    public_key: str
    endpoint: Endpoint
    allowed_ips: frozenset[str]


def lease_data(attributes: LeaseAttributes, family: int) -> tuple[str | None, int | None]:
    """Public key and port in a lease, for a family; None for what isn't there or isn't right."""
    data = attributes.backend_data if family == 4 else attributes.backend_v6_data
    if not isinstance(data, Mapping):
        return None, None
    fields: dict[str, Any] = {str(name).lower(): value for name, value in data.items()}
    key, port = fields.get("publickey"), fields.get("port")
    try:
        key_bytes(key if isinstance(key, str) else "")
    except ValueError:
        key = None
    usable = isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    return key, port if usable else None


def published_key(attributes: LeaseAttributes | None) -> str | None:
    """The public key in a lease of ours, None when it is of another backend."""
    if attributes is None or attributes.backend_type != NAME:
        return None
    return lease_data(attributes, 4)[0] or lease_data(attributes, 6)[0]


def tunnels(
    config: WireguardConfig, peer: Lease, own: Lease, underlay: Underlay
) -> list[WireguardTunnel]:
    """How to reach a peer: a tunnel for each device.

    Raises PeerUnusableError when its lease is of another backend or lacks something.
    """
    attributes = peer.attributes
    if attributes.backend_type != NAME:
        kind = attributes.backend_type or "udp"
        raise PeerUnusableError(f"lease {peer.key}: backend is {kind}, ours is {NAME}")
    subnets = config.shared(peer, own)
    if config.mode != "separate":
        if not subnets:
            return []
        # flanneld reads the IPv6 data where IPv6 is on; both hold the same key
        family = subnets[-1].version
        return [_tunnel(config, peer, own, family, underlay, subnets)]
    return [_tunnel(config, peer, own, s.version, underlay, [s]) for s in subnets]


def _tunnel(
    config: WireguardConfig,
    peer: Lease,
    own: Lease,
    family: int,
    underlay: Underlay,
    subnets: list[IPNetwork],
) -> WireguardTunnel:
    key, port = lease_data(peer.attributes, family)
    if key is None:
        raise PeerUnusableError(f"lease {peer.key}: no WireGuard PublicKey for IPv{family}")
    if key == lease_data(own.attributes, family)[0]:
        raise PeerUnusableError(
            f"lease {peer.key}: its host has the same WireGuard key as this one, as cloned "
            "machines do: delete wireguard.key on one of them and restart flatmeshd there"
        )
    address = _address(config, peer.attributes, family, underlay)
    if address is None:
        raise PeerUnusableError(f"lease {peer.key}: no PublicIP that Mode {config.mode} can use")
    device = config.device(family)
    return WireguardTunnel(
        device,
        key,
        Endpoint(str(address), port or config.ports[device]),
        frozenset(map(str, subnets)),
    )


def _address(
    config: WireguardConfig, attributes: LeaseAttributes, family: int, underlay: Underlay
) -> IPv4Address | IPv6Address | None:
    """The peer's underlay address to send to; flanneld's choice where it works."""
    ipv4, ipv6 = attributes.public_ip, attributes.public_ipv6
    if config.mode == "separate":
        return ipv4 if family == 4 else ipv6
    if config.mode != "auto":
        return ipv4 if config.mode == "ipv4" else ipv6
    ours4, ours6 = underlay.local(4) or underlay.public_ip, underlay.local(6)
    if ipv4 is None or ipv6 is None or ours4 is None or ours6 is None:
        return ipv6 if ipv4 is None or (ours4 is None and ipv6 is not None) else ipv4
    public6 = not ipv6.is_private and not ours6.is_private
    return ipv6 if ipv4.is_private and public6 else ipv4
