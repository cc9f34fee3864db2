# SPDX-License-Identifier: Apache-2.0
"""host-gw: no tunnel at all, each host is the gateway of its subnet.

    10.5.76.0/24 via 192.168.64.3 dev eth0

Works, and is fastest, where all hosts share one L2 segment: a router between them would not
know the pod subnets. A peer beyond a router is refused (flannel, pkg/backend/hostgw).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from backend.arrivals import Arrivals, TunnelPort
from backend.protocol import DataPlane, PeerUnusableError
from hostnet.kinds.route_messages import Route
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig


@dataclass(frozen=True, slots=True)
class HostGwBackend:
    """Cluster config: `{"Type":"host-gw"}`; there is nothing to set."""

    enable_ipv6: bool = False
    name: str = "host-gw"

    @classmethod
    def from_config(cls, config: NetworkConfig, state_dir: Path, run_dir: Path) -> HostGwBackend:
        """Read the backend's keys: none but the families in use."""
        del state_dir, run_dir
        return cls(config.enable_ipv6)

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """Publish our addresses: they are the gateways."""
        del previous
        ipv6 = underlay.public_ipv6 if self.enable_ipv6 else None
        return LeaseAttributes(underlay.public_ip, ipv6, self.name)

    def mtu(self, underlay: Underlay) -> int:
        """The underlay's own: nothing is added to a packet."""
        return underlay.mtu

    def arrivals(self) -> Arrivals:
        """Plain packets only."""
        return Arrivals(plain=True)

    def encrypting_devices(self) -> Collection[str]:
        """None: packets travel as they are."""
        return ()

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """Routes can always be made."""
        del underlay, held
        return None

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """Nothing: the pods' bridge carries the subnet's connected route."""
        del own, underlay
        return HostState()

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """One route per family that both hosts have."""
        attributes = peer.attributes
        if attributes.backend_type != self.name:
            raise PeerUnusableError(
                f"lease {peer.key}: backend is {attributes.backend_type or 'udp'}, ours is host-gw"
            )
        pairs = (
            (peer.subnet, own.subnet, attributes.public_ip),
            (peer.ipv6_subnet, own.ipv6_subnet, attributes.public_ipv6),
        )
        routes = []
        for subnet, mine, gateway in pairs:
            if subnet is None or mine is None:
                continue
            if gateway is None or not underlay.on_link(gateway):
                raise PeerUnusableError(
                    f"lease {peer.key}: its host {gateway} is not on the L2 segment of "
                    f"{underlay.link}, which host-gw needs; use vxlan, or vxlan with DirectRouting"
                )
            routes.append(Route(str(subnet), underlay.link, str(gateway)))
        return HostState(routes=frozenset(routes))

    def data_plane(self) -> DataPlane | None:
        """Nothing: packets stay in the kernel."""
        return None
