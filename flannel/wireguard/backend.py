# SPDX-License-Identifier: Apache-2.0
"""WireGuard: pod packets between hosts, encrypted and authenticated.

Each host has a device `flannel-wg` (and `flannel-wg-v6` for IPv6 over IPv6, unless `Mode`
says otherwise) and publishes its public key in its lease:

    "BackendType":"wireguard","BackendData":{"PublicKey":"...","Port":51820}

Two tables decide where a packet goes:

    route         10.5.76.0/24 dev flannel-wg           to the tunnel device
    allowed IPs   10.5.76.0/24 -> peer's public key     to the peer, which is also the only one
                                                        that may send from there

The whole cluster network is routed to the device as well, as flanneld does it: packets for a
subnet without a peer end there, and never leave in clear through the default route.

Names, options and numbers are flanneld's (flannel, pkg/backend/wireguard), so both can share
a cluster. The kernel does WireGuard where it can, else the process wireguard-go
(`data_plane`, `process`).

A new key for this host is made by `flatmesh wireguard rotate-key` (`flannel.wireguard.key`).
A device has one private key, so old and new can't be used at once; the order of the steps is
what loses no packet. First our device gets the new key: packets to peers wait in WireGuard's
queues for a handshake (128 a peer), and what peers send in their old sessions is still read.
Then the lease says the new key: each peer replaces the old one by it, moves the subnet over in
the same transaction, and starts the handshake, after which the queues are sent. The time
between the two steps is what etcd takes. In the other order, peers would start handshakes with
a key that no device has yet, and drop what we send.

If etcd refuses the new key, the device goes back to the key that the lease says. The packets
that were queued meanwhile are lost.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.arrivals import Arrivals, TunnelPort
from backend.protocol import DataPlane
from flannel.wireguard.config import NAME, IPNetwork, WireguardConfig, published_key, tunnels
from flannel.wireguard.data_plane import WireguardDataPlane
from flannel.wireguard.key import KeyFile, WireguardKey
from flannel.wireguard.process import NO_WIREGUARD, PROGRAM
from hostnet.kinds.link import Link
from hostnet.kinds.links.tun import Tun
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.tunnel_obstacle import udp_port_obstacle
from hostnet.underlay import Underlay
from hostnet.wireguard.device import KERNEL_KIND, TUN_KIND
from hostnet.wireguard.netlink import kernel_has_wireguard
from ipam.lease import Lease, LeaseAttributes
from ipam.network import ConfigError, NetworkConfig

log = logging.getLogger("flannel.wireguard.backend")
SCOPE_LINK = 253  # RT_SCOPE_LINK, linux/rtnetlink.h: an IPv4 route without a gateway


@dataclass(frozen=True, slots=True)
class WireguardBackend:
    """Cluster config: `{"Type":"wireguard"}`; for its options see `flannel.wireguard.config`."""

    config: WireguardConfig
    state_dir: Path
    run_dir: Path
    in_kernel: bool
    """Whether the kernel does WireGuard; else wireguard-go."""
    name: str = NAME

    @classmethod
    def from_config(cls, config: NetworkConfig, state_dir: Path, run_dir: Path) -> WireguardBackend:
        """Read the backend's options, and ask the kernel. Raises ConfigError, OSError."""
        return cls(WireguardConfig.of(config), state_dir, run_dir, kernel_has_wireguard())

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """Publish key and port. Makes the key on the first call, and rotates it on request.

        Raises ConfigError, WireguardKeyError, OSError.
        """
        config = self.config
        if config.mode == "ipv6" and underlay.public_ipv6 is None:
            raise ConfigError(
                f"cluster config: Backend.Mode is ipv6, but {underlay.link} has no IPv6 address"
            )
        key = self._key(previous)

        def data(port: int) -> dict[str, Any]:
            return {"PublicKey": key.public, "Port": port}

        v4, v6 = config.ports.get(config.device(4), 0), config.ports.get(config.device(6), 0)
        return LeaseAttributes(
            underlay.public_ip,
            underlay.public_ipv6 if config.publishes_ipv6 else None,
            self.name,
            data(v4) if config.enable_ipv4 else None,
            data(v6) if config.enable_ipv6 else None,
        )

    def _key(self, previous: LeaseAttributes | None) -> WireguardKey:
        file = KeyFile(self.state_dir)
        published = published_key(previous)
        if file.rotation_wanted:
            key = file.rotate(published)
            log.info("new WireGuard key %s, as asked for by %s", key.public, file.request)
            self._set_key(key)  # before the lease says it: see the module's text
            return key
        key = file.read_or_make(published)
        known = file.known_as(published)
        if known is not None and known != key:
            log.warning("our lease still says WireGuard key %s: using that", known.public)
            self._set_key(known)
        return key

    def _set_key(self, key: WireguardKey) -> None:
        try:
            self._make_data_plane().set_key(key)
        except OSError as error:
            log.warning("%s; the key is set with the peers", error)

    def mtu(self, underlay: Underlay) -> int:
        """The underlay's MTU less WireGuard's overhead."""
        return self.config.mtu(underlay)

    def arrivals(self) -> Arrivals:
        """WireGuard authenticates its peers, and binds their subnets to their keys."""
        return Arrivals(tuple(TunnelPort("udp", port) for port in self.config.ports.values()))

    def encrypting_devices(self) -> Collection[str]:
        """The tunnel devices."""
        return self.config.ports.keys()

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """No WireGuard, no address for the mode, or a program at a port."""
        if not self.in_kernel and shutil.which(PROGRAM) is None:
            return NO_WIREGUARD
        if self.config.mode == "ipv6" and underlay.public_ipv6 is None:
            return f"Backend.Mode is ipv6, but {underlay.link} has no IPv6 address"
        ours = {one.port for one in held}
        found = (udp_port_obstacle(port, ours) for port in self.config.ports.values())
        return next((one for one in found if one is not None), None)

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """The devices, their addresses, and the cluster's networks through them."""
        config = self.config
        links = frozenset(
            Link(
                name,
                KERNEL_KIND if self.in_kernel else TUN_KIND,
                mtu=config.mtu(underlay),
                addrgenmode="none",
                details=None if self.in_kernel else Tun(multi_queue=False),
            )
            for name in config.ports
        )
        subnets = config.shared(own, own)
        addresses = frozenset(
            Address(config.device(s.version), f"{s.network_address}/{s.max_prefixlen}")
            for s in subnets
        )
        used = {s.version for s in subnets}
        networks = (config.network, config.ipv6_network)
        routes = frozenset(self._route(n) for n in networks if n and n.version in used)
        return HostState(links=links, addresses=addresses, routes=routes)

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """A route for each subnet that the peer is reached at. Raises PeerUnusableError."""
        tunnels(self.config, peer, own, underlay)
        return HostState(routes=frozenset(map(self._route, self.config.shared(peer, own))))

    def _route(self, network: IPNetwork) -> Route:
        scope = SCOPE_LINK if network.version == 4 else 0
        return Route(str(network), self.config.device(network.version), scope=scope)

    def data_plane(self) -> DataPlane | None:
        """The WireGuard devices with their keys and peers."""
        return self._make_data_plane()

    def _make_data_plane(self) -> WireguardDataPlane:
        return WireguardDataPlane(self.config, self.state_dir, self.run_dir, self.in_kernel)
