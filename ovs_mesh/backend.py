# SPDX-License-Identifier: Apache-2.0
"""The `ovs` backend: its objects in the kernel. `ovs_mesh.data_plane` has those in Open vSwitch.

    pod --veth-- kbr0 (gateway address) --veth-- obr0 (Open vSwitch) == tunnels == peers
                    ^ routes to remote subnets

With `"PodAttach":"obr0"` pods are ports of obr0, and its own device has the gateway address.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from backend.arrivals import Arrivals, TunnelPort
from backend.protocol import DataPlane
from hostnet.kinds.gateway_bridge import GatewayBridge, GatewayDevice
from hostnet.kinds.link import Link
from hostnet.kinds.links.veth import Veth
from hostnet.kinds.offload import TxChecksum
from hostnet.kinds.route_messages import Route
from hostnet.state import HostState
from hostnet.sysctl import Sysctl
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig
from ovs_mesh import topology
from ovs_mesh.clients.ovsdb import Ovsdb
from ovs_mesh.config import OvsConfig
from ovs_mesh.data_plane import OvsDataPlane
from ovs_mesh.datapath import Datapath, choose_datapath
from ovs_mesh.devices import (
    KBR0,
    KBR0_VETH,
    OBR0,
    OBR0_VETH,
    UNDERLAY_BRIDGE_VETH,
    UNDERLAY_VETH,
)
from ovs_mesh.errors import OvsError
from ovs_mesh.host_side import gateway_addresses
from ovs_mesh.tables.neighbour import ROUTER_IPV4, ROUTER_IPV6, router_neighbours
from ovs_mesh.tunnel_obstacle import port_obstacle

RT_SCOPE_LINK = 253  # linux/rtnetlink.h
DEFAULT_RUNDIR = "/var/run/openvswitch"  # ovs-vswitchd(8); OVS_RUNDIR overrides it


@dataclass(frozen=True, slots=True)
class OvsBackend:
    """Cluster config: `{"Type":"ovs","Tunnel":"vxlan","Mesh":"flow"}`; see ovs_mesh.config."""

    config: OvsConfig
    datapath: Datapath
    state_dir: Path
    run_dir: Path
    rundir: Path
    """Open vSwitch's own run directory."""
    name: str = "ovs"

    @classmethod
    def from_config(cls, config: NetworkConfig, state_dir: Path, run_dir: Path) -> OvsBackend:
        """Read the backend's keys. Raises ConfigError."""
        ovs = OvsConfig.of(config)
        rundir = Path(os.environ.get("OVS_RUNDIR") or DEFAULT_RUNDIR)
        return cls(ovs, choose_datapath(ovs.datapath), state_dir, run_dir, rundir)

    @property
    def device(self) -> str:
        """The host's device with the pods' gateway, by which it sends to other hosts."""
        return KBR0 if self.config.attach == KBR0 else OBR0

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """Publish tunnel type, key and port."""
        del previous  # nothing in it is random
        return topology.attributes(self.config, underlay)

    def mtu(self, underlay: Underlay) -> int:
        """The underlay's MTU less the largest header in use."""
        return self.config.mtu(underlay)

    def arrivals(self) -> Arrivals:
        """The tunnels of the mesh; flows of the switch check what arrives by them."""
        return Arrivals(
            tuple(TunnelPort("udp" if t.port else "gre", t.port) for t in self.config.tunnels)
        )

    def encrypting_devices(self) -> Collection[str]:
        """None: packets travel as they are."""
        return ()

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """No ovsdb-server that answers, no ovs-vswitchd, or another program with a UDP port."""
        del underlay
        try:
            Ovsdb(self.rundir).close()
        except OvsError as error:
            return str(error)
        return port_obstacle((t.port for t in self.config.tunnels), {one.port for one in held})

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """The gateways on kbr0 or obr0, veth pairs between bridges, offload, no ICMP redirects."""
        links: list[Link] = []
        gateways: list[GatewayBridge | GatewayDevice] = []
        checksums: list[TxChecksum] = []
        # pods' packets arrive and leave by one device: the kernel would tell pods by ICMP redirect
        # to send them straight to the next hop, which they cannot reach
        sysctls = [Sysctl("net/ipv4/conf/all/send_redirects", "0")]
        addresses = tuple(gateway_addresses(own))
        if self.config.attach == KBR0:
            gateways.append(GatewayBridge(KBR0, self.mtu(underlay), addresses))
            sysctls.append(Sysctl(f"net/ipv4/conf/{KBR0}/send_redirects", "0"))
            links += _veth_pair(KBR0_VETH, OBR0_VETH, self.mtu(underlay), master=KBR0)
        else:
            gateways.append(GatewayDevice(OBR0, self.mtu(underlay), addresses))
        if self.datapath.userspace:
            links += _veth_pair(UNDERLAY_VETH, UNDERLAY_BRIDGE_VETH, underlay.mtu)
            # where packets enter the userspace switch
            entry = KBR0_VETH if self.config.attach == KBR0 else OBR0
            checksums.append(TxChecksum(entry, on=False))
        neighbours = router_neighbours(self.config, self.device)
        return HostState(links, sysctls, gateways, checksums, neighbours)

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """A route to the peer's subnets: to the mesh's router, or onto the mesh itself."""
        del underlay
        device = self.device
        routes = []
        for subnet in topology.peer_of(self.config, peer, own).subnets:
            if self.config.mesh == "static":
                scope = RT_SCOPE_LINK if subnet.version == 4 else 0
                routes.append(Route(str(subnet), device, scope=scope))
            else:
                router = ROUTER_IPV4 if subnet.version == 4 else ROUTER_IPV6
                routes.append(Route(str(subnet), device, router, onlink=True))
        return HostState(routes=frozenset(routes))

    def data_plane(self) -> DataPlane:
        """The part in Open vSwitch."""
        return OvsDataPlane(self.config, self.datapath, self.state_dir, self.run_dir, self.rundir)


def _veth_pair(one: str, other: str, mtu: int, *, master: str | None = None) -> list[Link]:
    return [
        Link(one, "veth", mtu=mtu, master=master, addrgenmode="none", details=Veth(other)),
        Link(other, "veth", mtu=mtu, addrgenmode="none", details=Veth(one)),
    ]
