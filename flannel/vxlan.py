# SPDX-License-Identifier: Apache-2.0
"""VXLAN: the kernel tunnels, we keep three tables.

Every host has a VTEP device `flannel.<VNI>` that learns nothing and floods nothing. A
packet for a remote pod takes three look-ups, one entry each per peer:

    route      10.5.76.0/24 via 10.5.76.0 dev flannel.1 onlink   next hop: the peer's VTEP
    neighbour  10.5.76.0 -> c6:d2:32:6f:8f:44                    the peer's VtepMAC
    FDB        c6:d2:32:6f:8f:44 -> 192.168.64.3                 the peer's PublicIP

The VTEP carries the subnet's base address, so a host's own traffic to pods leaves with an
address of its subnet and comes back the same way. Wire format, names and numbers are
flanneld's (flannel, pkg/backend/vxlan; RFC 7348), so both can share a cluster.

With `DirectRouting` a peer on our own L2 segment is reached by a plain route to its
PublicIP instead, as host-gw does: no encapsulation where none is needed.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from backend.arrivals import Arrivals, Check, TunnelPort
from backend.protocol import DataPlane, PeerUnusableError
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.tunnel_obstacle import vxlan_obstacle
from hostnet.underlay import Underlay
from ipam.lease import MAC, Lease, LeaseAttributes
from ipam.network import NetworkConfig

DEFAULT_VNI = 1
DEFAULT_PORT = 8472  # what Linux used before RFC 7348 got 4789; flanneld leaves it so
OVERHEAD_IPV4 = 50  # bytes: outer Ethernet 14 + IPv4 20 + UDP 8 + VXLAN 8
OVERHEAD_IPV6 = 70  # bytes: outer Ethernet 14 + IPv6 40 + UDP 8 + VXLAN 8


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """Cluster config: `{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1500,"DirectRouting":false}`."""

    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    underlay_mtu: int = 0
    """Bytes; 0 takes the underlay device's."""
    direct_routing: bool = False
    learning: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    name: str = "vxlan"

    @classmethod
    def from_config(cls, config: NetworkConfig, state_dir: Path, run_dir: Path) -> VxlanBackend:
        """Read the backend's keys. Raises ConfigError for a bad one."""
        del state_dir, run_dir  # all state is in the lease and the kernel
        options = config.options
        return cls(
            # the kernel's range is 24 bits; 0 is a valid VNI but flannel reads it as "default"
            vni=options.number("VNI", DEFAULT_VNI, minimum=1, maximum=2**24 - 1),
            port=options.number("Port", 0, minimum=0, maximum=65535) or DEFAULT_PORT,
            underlay_mtu=options.number("MTU", 0, minimum=0, maximum=65535),
            direct_routing=options.flag("DirectRouting", default=False),
            learning=options.flag("Learning", default=False),
            enable_ipv4=config.enable_ipv4,
            enable_ipv6=config.enable_ipv6,
        )

    def device(self, family: int) -> str:
        """Name the VTEP device of a family (4 or 6)."""
        return f"flannel.{self.vni}" if family == 4 else f"flannel-v6.{self.vni}"

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """Publish VNI and VTEP MAC; a MAC that peers know already is kept."""
        known = previous if previous and previous.backend_type == self.name else None
        return LeaseAttributes(
            underlay.public_ip,
            underlay.public_ipv6 if self.enable_ipv6 else None,
            self.name,
            self._data(known.backend_data if known else None) if self.enable_ipv4 else None,
            self._data(known.backend_v6_data if known else None) if self.enable_ipv6 else None,
        )

    def _data(self, known: Any) -> dict[str, Any]:
        return {"VNI": self.vni, "VtepMAC": vtep_mac(known) or random_mac()}

    def mtu(self, underlay: Underlay) -> int:
        """The underlay's MTU less the larger overhead in use."""
        overhead = OVERHEAD_IPV6 if self.enable_ipv6 else OVERHEAD_IPV4
        return (self.underlay_mtu or underlay.mtu) - overhead

    def arrivals(self) -> Arrivals:
        """VXLAN of our VNI, checked; with DirectRouting plain packets too.

        A peer that takes us to be on its segment sends plain packets, whether we do the same or
        not: so all peers' are let in, not only those of peers that we reach without a tunnel.
        """
        port = TunnelPort("udp", self.port, Check.VXLAN, self.vni)
        return Arrivals((port,), plain=self.direct_routing)

    def encrypting_devices(self) -> Collection[str]:
        """None: packets travel as they are."""
        return ()

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """Another device with this VNI, or a program at the port: tried with devices for that."""
        if any((one.port, one.vni) == (self.port, self.vni) for one in held):
            return None
        families = (4,) * self.enable_ipv4 + (6,) * self.enable_ipv6
        ends = [end for family in families if (end := underlay.local(family)) is not None]
        wanted = [Vxlan(self.vni, self.port, str(end), underlay.link) for end in ends]
        return vxlan_obstacle(wanted, ours={self.device(4), self.device(6)})

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """Give each enabled family its VTEP device and the device its address."""
        links, addresses = [], []
        for subnet, data in _families(own):
            local = underlay.local(subnet.version)
            mac = vtep_mac(data)
            if local is None or mac is None:
                raise PeerUnusableError(
                    f"own lease {own.key}: no VtepMAC or no IPv{subnet.version} underlay address"
                )
            name = self.device(subnet.version)
            overhead = OVERHEAD_IPV4 if subnet.version == 4 else OVERHEAD_IPV6
            links.append(
                Link(
                    name,
                    "vxlan",
                    mtu=(self.underlay_mtu or underlay.mtu) - overhead,
                    mac=mac,
                    addrgenmode="none",
                    details=Vxlan(self.vni, self.port, str(local), underlay.link, self.learning),
                )
            )
            addresses.append(Address(name, f"{subnet.network_address}/{subnet.max_prefixlen}"))
        return HostState(links=frozenset(links), addresses=frozenset(addresses))

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """Route, neighbour and FDB entry for each family that both hosts have."""
        attributes = peer.attributes
        if attributes.backend_type != self.name:
            raise PeerUnusableError(
                f"lease {peer.key}: backend is {attributes.backend_type or 'udp'}, ours is vxlan"
            )
        routes, neighbours, fdb = [], [], []
        for family, subnet, data, remote in (
            (4, peer.subnet if own.subnet else None, attributes.backend_data, attributes.public_ip),
            (
                6,
                peer.ipv6_subnet if own.ipv6_subnet else None,
                attributes.backend_v6_data,
                attributes.public_ipv6,
            ),
        ):
            if subnet is None:
                continue
            mac = vtep_mac(data)
            if remote is None or mac is None:
                raise PeerUnusableError(f"lease {peer.key}: no IPv{family} PublicIP or no VtepMAC")
            network = str(subnet)
            if self.direct_routing and underlay.on_link(remote):
                routes.append(Route(network, underlay.link, str(remote)))
                continue
            link, vtep = self.device(family), network.partition("/")[0]
            routes.append(Route(network, link, vtep, onlink=True))
            neighbours.append(Neighbour(link, vtep, mac))
            fdb.append(FdbEntry(link, mac, str(remote)))
        return HostState(
            routes=frozenset(routes), neighbours=frozenset(neighbours), fdb=frozenset(fdb)
        )

    def data_plane(self) -> DataPlane | None:
        """Nothing: packets stay in the kernel."""
        return None


def _families(lease: Lease) -> list[tuple[IPv4Network | IPv6Network, Any]]:
    """Pair each subnet of a lease with its family's backend data."""
    families: list[tuple[IPv4Network | IPv6Network, Any]] = []
    if lease.subnet is not None:
        families.append((lease.subnet, lease.attributes.backend_data))
    if lease.ipv6_subnet is not None:
        families.append((lease.ipv6_subnet, lease.attributes.backend_v6_data))
    return families


def vtep_mac(data: Any) -> str | None:
    """Read `VtepMAC` from backend data, lower case; None when it is absent or no MAC."""
    mac = data.get("VtepMAC") if isinstance(data, dict) else None
    if not isinstance(mac, str) or not MAC.fullmatch(mac):
        return None
    return mac.lower()


def random_mac() -> str:
    """A random unicast, locally administered MAC (IEEE 802, bit 1 of the first octet)."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{octet:02x}" for octet in (first & 0xFE | 0x02, *rest))
