"""Table `ingress`: a frame from a tunnel has an inner source that belongs to its sender.

Under a spanning tree a frame may reach us through a third host. So there the inner source has
to belong to some peer, not to the one whose tunnel it came from.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, PeerInputs
from ovs_mesh.pipeline import Exits, Flow, Stage, Table, Traffic
from ovs_mesh.topology import Peer


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    if inputs.config.spanning_tree != "none":
        for subnet in inputs.host.subnets:
            if subnet.version == 6:  # a host asks from its link-local address, which is in no lease
                yield Flow(110, match.question(subnet), exits.next(Traffic.TUNNEL_NEIGHBOUR))
    for protocol in ("ip", "ipv6", "arp"):
        yield Flow(10, protocol, exits.drop("forged"))


def _flows_of_peer(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    if inputs.spanning_tree != "none":
        return _from_any_tunnel(peer, exits)
    return _from_its_tunnel(inputs, peer, ofport, exits)


def _from_its_tunnel(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    tunnel = f"in_port={ofport}"
    if peer.chosen_by_flow:
        field = "tun_ipv6_src" if ":" in peer.remote else "tun_src"
        tunnel = f"{field}={peer.remote},{tunnel}"
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
            about = f"icmp6,{tunnel},icmp_type=135,icmp_code=0,nd_target={mine}"
            yield Flow(110, about, neighbour)
        about = f"icmp6,{tunnel},icmp_type=136,icmp_code=0,nd_target={network}"
        yield Flow(110, about, neighbour)


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
    drop_reasons={"forged": 2},
)
