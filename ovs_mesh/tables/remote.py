# SPDX-License-Identifier: Apache-2.0
"""Tables `remote` and `flood`: packets of this host to the peer that owns the destination.

In `flow` and `combined` meshes obr0 routes: TTL goes down by one, MACs are rewritten, and the
flow of the peer's subnet sets the tunnel's destination. In `static` meshes frames pass
unchanged, and broadcast goes to every peer (table `flood`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, PeerInputs
from ovs_mesh.pipeline import DROP, Exits, Flow, Miss, Stage, Table, Traffic
from ovs_mesh.tables.neighbour import ROUTER_MAC
from ovs_mesh.topology import Peer

FLOOD_CHUNK = 400  # outputs per flow: an OpenFlow message ends at 64 KiB
CHUNK_REGISTER = "reg2"
"""Which chunk of the outputs a pass through `flood` serves."""


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    if inputs.config.spanning_tree != "none":
        return
    host = inputs.host
    routed = inputs.config.mesh != "static"
    if host.on_switch:
        # routed: services and other networks, which the host routes. Static: all packets for
        # remote pods, as a pod sends them to its gateway and the host asks for their MACs
        to_gateway = f"output:{host.gateway_port}"
        yield Flow(50 if routed else 200, f"dl_dst={host.gateway_mac}", to_gateway)
    if routed:
        yield Flow(20, match.MULTICAST, DROP)
    else:
        everywhere = ",".join(
            f"set_field:{number}->{CHUNK_REGISTER},{exits.resubmit(FLOOD.name)}"
            for number in range(len(_chunks(inputs)))
        )
        # an advertisement that answers a link-local question: its asker may be on any host
        about = "icmp6,icmp_type=136,ipv6_dst=fe80::/10"
        yield Flow(105, about, everywhere or DROP)
        yield Flow(26, match.GRATUITOUS, everywhere or DROP)
        yield Flow(25, "arp", DROP)
        yield Flow(20, match.MULTICAST, everywhere or DROP)
    for protocol in ("ip", "ipv6"):
        yield Flow(1, protocol, exits.drop("no_peer"))


def _flows_of_peer(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    del exits
    if inputs.spanning_tree != "none":
        return
    if inputs.mesh == "static":
        for subnet in peer.subnets:
            yield Flow(100, match.destination(subnet), f"output:{ofport}")
            yield Flow(110, match.question(subnet), f"output:{ofport}")
        return
    actions = f"dec_ttl,set_field:{inputs.gateway_mac}->eth_src,set_field:{ROUTER_MAC}->eth_dst,"
    if peer.chosen_by_flow:
        field = "tun_ipv6_dst" if ":" in peer.remote else "tun_dst"
        actions += f"set_field:{peer.tunnel.key}->tun_id,set_field:{peer.remote}->{field},"
    for subnet in peer.subnets:
        yield Flow(100, match.destination(subnet), f"{actions}output:{ofport}")


def _chunks(inputs: HostInputs) -> list[list[int]]:
    ports = sorted({inputs.ofports[peer.port] for peer in inputs.peers})
    return [ports[start : start + FLOOD_CHUNK] for start in range(0, len(ports), FLOOD_CHUNK)]


def _flood(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    del exits
    if inputs.config.mesh != "static" or inputs.config.spanning_tree != "none":
        return
    for number, ports in enumerate(_chunks(inputs)):
        outputs = ",".join(f"output:{port}" for port in ports)
        yield Flow(1, f"{CHUNK_REGISTER}={number}", outputs)


REMOTE = Table(
    "remote", Stage.REMOTE, Traffic.HOST, _flows, _flows_of_peer, drop_reasons={"no_peer": 4}
)
FLOOD = Table("flood", Stage.FLOOD, Traffic.NONE, _flood, miss=Miss.NONE)
