# SPDX-License-Identifier: Apache-2.0
"""Table `ingress`: a frame from a tunnel has an inner source that belongs to its sender.

Neighbour discovery and ARP come only from where frames travel as they are (`static`), and a peer
says there where its own addresses are: not those of this host, its pods or a third host.

Under a spanning tree a frame may reach us through a third host. So there the inner source has
to belong to some peer, not to the one whose tunnel it came from.

A static mesh has a port per peer: Open vSwitch itself drops what comes from other addresses, or
with another key, as there is no port for it. Those packets are not counted here.
"""

from __future__ import annotations

from collections.abc import Iterator

from hostnet.address_mac import link_local
from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, PeerInputs
from ovs_mesh.match import ADVERTISEMENT, LINK_LOCAL, SOLICITATION
from ovs_mesh.pipeline import Exits, Flow, Stage, Table, Traffic
from ovs_mesh.topology import Peer

ROUTER_SOLICITATION = 133  # ICMPv6 type, RFC 4861


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    forged = exits.drop("forged")
    yield Flow(130, match.TAGGED, exits.drop("tagged"))
    for claim in match.ROUTER_CLAIMS:
        yield Flow(120, claim, exits.drop("router_claim"))
    for answer in match.DHCP_SERVER:
        yield Flow(120, answer, exits.drop("dhcp_server"))
    if inputs.config.mesh == "static":
        yield from _as_us(inputs, forged)
    if inputs.config.spanning_tree != "none":
        for subnet in inputs.host.subnets:
            if subnet.version == 6:  # a host asks from its link-local address, which is in no lease
                yield Flow(110, match.question(subnet), exits.next(Traffic.TUNNEL_NEIGHBOUR))
    for kind in (ROUTER_SOLICITATION, SOLICITATION, ADVERTISEMENT):
        yield Flow(105, f"icmp6,icmp_type={kind}", forged)
    for protocol in ("ip", "ipv6", "arp"):
        if (shared := inputs.shared_port) is not None:
            yield Flow(15, f"{protocol},in_port={shared}", exits.drop("not_a_member"))
        yield Flow(10, protocol, forged)


def _as_us(inputs: HostInputs, forged: str) -> Iterator[Flow]:
    """Frames that would make bridges and neighbours take their sender for this host or a pod."""
    for mac in inputs.host.macs:
        yield Flow(116, f"dl_src={mac}", forged)
        yield Flow(115, f"ipv6,ipv6_src={link_local(mac)}", forged)
    for subnet in inputs.host.subnets:
        yield Flow(115, match.source(subnet), forged)


def _flows_of_peer(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    if inputs.spanning_tree != "none":
        return _from_any_tunnel(peer, exits)
    return _from_its_tunnel(inputs, peer, ofport, exits)


def _from_its_tunnel(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    tunnel = f"in_port={ofport}"
    if peer.chosen_by_flow:
        field = "tun_ipv6_src" if ":" in peer.remote else "tun_src"
        tunnel = f"{field}={peer.remote},{tunnel}"
        yield Flow(20, tunnel, exits.drop("forged"))
    on = exits.next(Traffic.TUNNEL_IP)
    for network in (*peer.subnets, *peer.sources):
        yield Flow(100, f"{match.source(network)},{tunnel}", on)
    if inputs.mesh != "static":
        return  # ARP and neighbour discovery are answered on the sender's own host
    neighbour = exits.next(Traffic.TUNNEL_NEIGHBOUR)
    for network in peer.subnets:
        if network.version == 4:
            yield Flow(100, f"arp,{tunnel},arp_spa={network}", neighbour)
            continue
        for mine in (subnet for subnet in inputs.subnets if subnet.version == 6):
            for asker in (network, LINK_LOCAL):
                about = f"{match.question(mine)},{tunnel},ipv6_src={asker}"
                yield Flow(110, about, neighbour)
        yield Flow(110, f"{match.advertisement(network)},{tunnel}", neighbour)


def _from_any_tunnel(peer: Peer, exits: Exits) -> Iterator[Flow]:
    for network in (*peer.subnets, *peer.sources):
        yield Flow(100, match.source(network), exits.next(Traffic.TUNNEL_IP))
    neighbour = exits.next(Traffic.TUNNEL_NEIGHBOUR)
    for network in peer.subnets:
        if network.version == 4:
            yield Flow(100, f"arp,arp_spa={network}", neighbour)
        else:
            yield Flow(110, match.question(network), neighbour)
            yield Flow(110, match.advertisement(network), neighbour)


INGRESS = Table(
    "ingress",
    Stage.TUNNEL_VALIDATION,
    Traffic.TUNNEL,
    _flows,
    _flows_of_peer,
    drop_reasons={"forged": 2, "not_a_member": 8},
)
