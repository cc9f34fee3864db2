# SPDX-License-Identifier: Apache-2.0
"""Which tunnels a host has, from the config and the leases. Pure.

    static     a tunnel port per peer, named by the peer's address; an L2 mesh. Frames travel
               as they are, a host resolves remote pods by ARP through the mesh.
    flow       one tunnel port; the flow that matches a peer's subnet sets the tunnel's
               destination (tun_dst). Routed: nothing is broadcast over the underlay.
    combined   as flow, but two hosts that a rule of the config names have a tunnel port for
               each other, with another tunnel type or key.

Sources: ovs-vswitchd.conf.db(5), Interface options `remote_ip`, `key`, `dst_port`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes, PeerUnusableError
from ovs_mesh.config import NAME, IPAddress, IPNetwork, OvsConfig, OvsTunnel


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host, as the mesh sees it."""

    remote: str
    """Its underlay address: where tunnel packets go, and come from."""
    subnets: tuple[IPNetwork, ...]
    sources: tuple[str, ...]
    """Its own underlay addresses: it may send from them, too."""
    tunnel: OvsTunnel
    port: str
    """Name of the tunnel port."""
    chosen_by_flow: bool
    """Whether the port serves many peers."""


@dataclass(frozen=True, slots=True)
class TunnelPort:
    """A tunnel port of obr0."""

    name: str
    tunnel: OvsTunnel
    remote: str | None
    """None: flows set the destination."""
    local: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """The Interface's options column."""
        options = {"key": str(self.tunnel.key) if self.remote else "flow"}
        options["remote_ip"] = self.remote or "flow"
        if self.tunnel.port:
            options["dst_port"] = str(self.tunnel.port)
        if self.local:
            options["local_ip"] = self.local
        return options


def attributes(config: OvsConfig, underlay: Underlay) -> LeaseAttributes:
    """What this host publishes."""
    data = {
        "Tunnel": config.tunnel.kind,
        "Key": config.tunnel.key,
        "Port": config.tunnel.port,
        "Mesh": config.mesh,
    }
    return LeaseAttributes(
        underlay.public_ip,
        underlay.public_ipv6 if config.enable_ipv6 or underlay.public_ip is None else None,
        NAME,
        data if config.enable_ipv4 else None,
        data if config.enable_ipv6 else None,
    )


def peer_of(config: OvsConfig, peer: Lease, own: Lease) -> Peer:
    """A peer's place in the mesh.

    Raises PeerUnusableError when its lease is of another backend, another tunnel or lacks an
    address.
    """
    theirs = peer.attributes
    if theirs.backend_type != NAME:
        raise PeerUnusableError(
            f"lease {peer.key}: backend is {theirs.backend_type or 'udp'}, ours is {NAME}"
        )
    data = theirs.backend_data or theirs.backend_v6_data
    fields: Mapping[str, object] = data if isinstance(data, Mapping) else {}
    kind, key, port = (fields.get(name) for name in ("Tunnel", "Key", "Port"))
    if (kind, key, port) != tuple(config.tunnel):
        raise PeerUnusableError(
            f"lease {peer.key}: its tunnel is {kind} key {key} port {port}, "
            f"the cluster config says {config.tunnel.kind} key {config.tunnel.key} "
            f"port {config.tunnel.port}: its host has not followed yet"
        )
    ours, remote = _tunnel_ends(own.attributes, theirs)
    if ours is None or remote is None:
        raise PeerUnusableError(f"lease {peer.key}: no PublicIP of a family that we have too")
    subnets = [
        subnet
        for subnet, mine in ((peer.subnet, own.subnet), (peer.ipv6_subnet, own.ipv6_subnet))
        if subnet is not None and mine is not None
    ]
    named = config.tunnel_between(ours, remote)
    by_flow = config.mesh != "static" and named is None
    tunnel = named or config.tunnel
    return Peer(
        str(remote),
        tuple(subnets),
        tuple(map(str, theirs.addresses)),
        tunnel,
        shared_port(config) if by_flow else port_name(remote),
        by_flow,
    )


def _tunnel_ends(
    ours: LeaseAttributes, theirs: LeaseAttributes
) -> tuple[IPAddress | None, IPAddress | None]:
    """Our address and the peer's, of one family: IPv4 where both hosts have it."""
    if ours.public_ip is not None and theirs.public_ip is not None:
        return ours.public_ip, theirs.public_ip
    return ours.public_ipv6, theirs.public_ipv6


def shared_port(config: OvsConfig) -> str:
    """Name the tunnel port that serves many peers, which a static mesh lacks."""
    return f"mesh-{config.tunnel.kind}"


def port_name(remote: IPAddress) -> str:
    """Name a peer's tunnel port: by its IPv4 address, which fits into 15 characters.

    An IPv6 address doesn't: `v6-` and a checksum of it; the port's external_ids have it in full.
    """
    return str(remote) if remote.version == 4 else f"v6-{zlib.crc32(remote.packed):08x}"


def tunnel_ports(config: OvsConfig, peers: Iterable[Peer]) -> list[TunnelPort]:
    """The tunnel ports: the shared one first, then those of single peers by name."""
    ports = []
    if config.mesh != "static":
        ports.append(TunnelPort(shared_port(config), config.tunnel, None))
    single = {
        peer.port: TunnelPort(peer.port, peer.tunnel, peer.remote)
        for peer in peers
        if not peer.chosen_by_flow
    }
    return ports + [single[name] for name in sorted(single)]


@dataclass(slots=True)
class KnownPeers:
    """The peers of the last reconcile, so that a lease that stays keeps its `Peer` object.

    `PeerFlowCache` knows peers by their identity.
    """

    _own: Lease | None = None
    _peers: dict[int, tuple[Lease, Peer]] = field(default_factory=dict)
    """By id(lease): a lease that did not change is the same object."""

    def peers_of(self, config: OvsConfig, leases: Sequence[Lease], own: Lease) -> list[Peer]:
        """The peers of these leases; those that cannot be used are left out."""
        before = self._peers if own is self._own else {}
        self._own, self._peers = own, {}
        for lease in leases:
            known = before.get(id(lease))
            if known is None:
                try:
                    known = (lease, peer_of(config, lease, own))
                except PeerUnusableError:  # whoever asked the backend for the peer reports it
                    continue
            self._peers[id(lease)] = known
        return [peer for _, peer in self._peers.values()]
