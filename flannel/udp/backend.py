# SPDX-License-Identifier: Apache-2.0
"""UDP: pod packets as the payload of UDP datagrams, moved by a process of flatmesh.

It works on any kernel and over any network that carries UDP. The way of a packet:

    pod -> route 10.5.0.0/16 dev flannel0 -> TUN device -> data-plane process
        -> UDP to the PublicIP of the host that leases the destination's subnet, port 8285
        -> its data-plane process -> its TUN device -> pod

A datagram is one bare IP packet, no header added (flannel, pkg/backend/udp), so hosts with
flanneld's udp backend take part.

    data_plane   what the daemon calls            lifecycle    starts, replaces, ends the process
    control      protocol between the two         process      the process
    table        from leases to its table         sockets      its descriptors

The packets are moved by C, in plane/:

    plane        worker threads, one per TUN queue
    transmit     TUN to UDP messages              send         messages to sendmmsg()
    receive      UDP to TUN
    segment      cuts super-packets               coalesce     puts them together again
    peers        longest prefix match             icmp, fragment, checksum, packet
    module       the Python module

docs/udp.md tells why it is fast, and what is tested how.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from backend.arrivals import Arrivals, Check, TunnelPort
from backend.protocol import DataPlane
from flannel.udp.data_plane import UdpDataPlane
from flannel.udp.options import DEFAULT_PORT, UdpOptions
from flannel.udp.table import NAME, reach
from hostnet.kinds.link import Link
from hostnet.kinds.links.tun import Tun
from hostnet.kinds.route_messages import Route
from hostnet.kinds.tun import KIND, TUN
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.tunnel_obstacle import udp_port_obstacle
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.network import ConfigError, NetworkConfig

DEVICE = "flannel0"
OVERHEAD_IPV4 = 28  # bytes: outer IPv4 20 + UDP 8
OVERHEAD_IPV6 = 48  # bytes: outer IPv6 40 + UDP 8
MAX_QUEUES = 8  # more threads never had anything to do on the hosts that were measured
NOT_COMPILED = (
    "its C part was not compiled when flatmesh was installed; install a C compiler and Python's "
    "headers (apt install gcc libc6-dev python3-dev), then flatmesh again"
)
SCOPE_LINK = 253  # RT_SCOPE_LINK, linux/rtnetlink.h: an IPv4 route without a gateway


@dataclass(frozen=True, slots=True)
class UdpBackend:
    """Cluster config: `{"Type":"udp","Port":8285,"MTU":0,"Queues":0}`.

    `"SinglePacket":true` moves packet by packet, as flanneld does; it is for benchmarks.
    """

    run_dir: Path
    port: int = DEFAULT_PORT
    underlay_mtu: int = 0
    """Bytes; 0 takes the underlay device's."""
    queues: int = 0
    """TUN queues, each with a thread; 0: one for every two processors, the rest is for pods."""
    single: bool = False
    """One packet per system call, one thread, no super-packets: flanneld's way, for benchmarks."""
    network: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    name: str = NAME

    @classmethod
    def from_config(cls, config: NetworkConfig, state_dir: Path, run_dir: Path) -> UdpBackend:
        """Read the backend's keys. Raises ConfigError for a bad one, or without the C part."""
        del state_dir  # all state is in the leases
        if find_spec("flannel.udp._plane") is None:
            raise ConfigError(f"backend udp: {NOT_COMPILED}, or use another Backend.Type")
        options = UdpOptions.of(config)
        return cls(run_dir, *options, config.network, config.ipv6_network)

    def attributes(self, underlay: Underlay, previous: LeaseAttributes | None) -> LeaseAttributes:
        """Publish addresses, nothing else: flanneld's udp leases have no BackendType."""
        del previous
        need_ipv6 = self.ipv6_network is not None or underlay.public_ip is None
        return LeaseAttributes(
            underlay.public_ip, underlay.public_ipv6 if need_ipv6 else None, self.name
        )

    def mtu(self, underlay: Underlay) -> int:
        """The underlay's MTU less the outer headers: IPv4's where the underlay has IPv4."""
        overhead = OVERHEAD_IPV4 if underlay.public_ip is not None else OVERHEAD_IPV6
        return (self.underlay_mtu or underlay.mtu) - overhead

    def arrivals(self) -> Arrivals:
        """Datagrams from members; the process compares the inner source with the sender's lease."""
        return Arrivals((TunnelPort("udp", self.port, Check.MEMBER),))

    def encrypting_devices(self) -> Collection[str]:
        """None: packets travel as they are."""
        return ()

    def obstacle(self, underlay: Underlay, held: Collection[TunnelPort]) -> str | None:
        """No TUN devices, or a program at the port."""
        del underlay
        if not Path(TUN).exists():
            return f"{TUN} is not there: modprobe tun"
        return udp_port_obstacle(self.port, {one.port for one in held})

    def base(self, own: Lease, underlay: Underlay) -> HostState:
        """The TUN device, its addresses, and a route for the cluster through it."""
        pairs = ((own.subnet, self.network), (own.ipv6_subnet, self.ipv6_network))
        addresses, routes = [], []
        for subnet, network in pairs:
            if subnet is not None and network is not None:
                base = f"{subnet.network_address}/{subnet.max_prefixlen}"
                addresses.append(Address(DEVICE, base))
                scope = SCOPE_LINK if subnet.version == 4 else 0
                routes.append(Route(str(network), DEVICE, scope=scope))
        tun = Tun(multi_queue=not self.single)
        link = Link(DEVICE, KIND, mtu=self.mtu(underlay), addrgenmode="none", details=tun)
        return HostState(
            links=frozenset([link]), addresses=frozenset(addresses), routes=frozenset(routes)
        )

    def peer(self, peer: Lease, own: Lease, underlay: Underlay) -> HostState:
        """Nothing in the kernel: the process routes by its own table. Raises PeerUnusableError."""
        del underlay
        reach(peer, own)
        return HostState()

    def data_plane(self) -> DataPlane | None:
        """The TUN device and the process behind it."""
        processors = len(os.sched_getaffinity(0))
        queues = self.queues or min(max(processors // 2, 1), MAX_QUEUES)
        return UdpDataPlane(DEVICE, self.port, queues, self.run_dir, self.underlay_mtu, self.single)
