# SPDX-License-Identifier: Apache-2.0
"""Tables `track`, `egress-policy` and `ingress-policy`: network policies of pods on obr0.

They are part of the pipeline while network policies are enforced and pods are ports of obr0; for
pods on kbr0 nftables does it. What the host itself sends, and what it forwards to obr0, passes: the
latter has passed nftables.

An allowed row of peers and ports is a conjunction (ovs-fields(7)): a flow for each pod, each peer
and each port, not for each combination of them. Connections are tracked in a zone of our own;
replies pass, and every packet of who began the connection is looked at.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from backend.isolation import EGRESS, INGRESS, MAX_PORT, Allowed, Isolation, PortRange
from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, HostSide
from ovs_mesh.pipeline import Exits, Flow, Miss, Stage, Table, Traffic

ZONE = 0xF1A7
"""Of connection tracking; zones are numbers of 16 bits that programs agree on."""
REPLIES = ("ct_state=+est+rpl+trk", "ct_state=+rel+trk")
NEIGHBOUR_TYPES = (130, 131, 132, 133, 134, 135, 136, 143)
"""ICMPv6: listeners of multicast, routers, neighbours (RFC 4861, RFC 3810)."""
NOTHING = Isolation()


def _track(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    del inputs
    for protocol in ("ip", "ipv6"):
        yield Flow(10, protocol, exits.track(Traffic.IP, ZONE))


def _egress(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    host, isolation = inputs.host, inputs.host.isolation or NOTHING
    onward = exits.next(Traffic.IP)
    yield from _always(isolation.egress, onward, onward)
    for address in (*host.gateways, *host.sources):
        yield Flow(270, match.destination(address), onward)
    yield from _rules(isolation, EGRESS, host, onward)
    for pod in _ports(host, isolation.egress).values():
        for protocol in ("ip", "ipv6"):
            yield Flow(50, f"{protocol},in_port={pod}", exits.drop("policy_egress"))


def _ingress(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    host, isolation = inputs.host, inputs.host.isolation or NOTHING
    onward = exits.next(Traffic.IP)
    commit = f"ct(commit,zone={ZONE}),{onward}"
    yield from _always(isolation.ingress, onward, commit)
    yield from _rules(isolation, INGRESS, host, commit)
    drop = exits.drop("policy_ingress")
    for protocol in ("ip", "ipv6"):
        yield Flow(285, f"{protocol},in_port={host.gateway_port}", commit)
        if isolation.ingress:  # who receives it is not said in the packet
            yield Flow(60, f"{protocol},{match.MULTICAST}", drop)
        yield Flow(1, protocol, commit)
    if isolation.ingress or isolation.egress:
        yield Flow(60, match.destination(match.LINK_LOCAL), drop)
    for address in isolation.ingress:
        yield Flow(50, match.destination(address), drop)


def _always(isolated: Iterable[str], replies: str, others: str) -> Iterator[Flow]:
    """What passes whatever the policies are."""
    for state in REPLIES:
        yield Flow(300, state, replies)
    for kind in NEIGHBOUR_TYPES:
        yield Flow(290, f"icmp6,icmp_type={kind}", replies)
    for address in isolated:
        field = "ipv6_src" if ":" in address else "nw_src"
        yield Flow(280, f"{match.destination(address)},{field}={address}", others)


def _rules(isolation: Isolation, direction: str, host: HostSide, accept: str) -> Iterator[Flow]:
    """One flow for each match, with a part in every conjunction that it is of."""
    parts: dict[str, list[str]] = defaultdict(list)
    ports = _ports(host, isolation.isolated(direction))
    for one in isolation.allowed:
        if one.direction != direction:
            continue
        pods = [text for address in one.pods for text in _of_pod(address, direction, ports)]
        dimensions = [pods, *_dimensions(one)]
        if not pods or not all(dimensions):
            continue
        if len(dimensions) == 1:
            for text in pods:
                yield Flow(200, text, accept)
            continue
        number = int(hashlib.sha256(one.name.encode()).hexdigest()[:8], 16) or 1
        for place, matches in enumerate(dimensions, 1):
            for text in matches:
                parts[text].append(f"conjunction({number},{place}/{len(dimensions)})")
        for protocol in ("ip", "ipv6"):
            yield Flow(100, f"{protocol},conj_id={number}", accept)
    for text, conjunctions in parts.items():
        yield Flow(100, text, ",".join(sorted(set(conjunctions))))


def _of_pod(address: str, direction: str, ports: dict[str, int]) -> Iterator[str]:
    if direction == INGRESS:
        yield match.destination(address)
    elif address in ports:
        yield f"{'ipv6' if ':' in address else 'ip'},in_port={ports[address]}"


def _dimensions(one: Allowed) -> Iterator[list[str]]:
    if one.peers is not None:
        side = match.source if one.direction == INGRESS else match.destination
        yield [side(peer) for peer in one.peers]
    if one.ports is not None:
        yield [text for port in one.ports for text in port_matches(port)]


def _ports(host: HostSide, addresses: frozenset[str]) -> dict[str, int]:
    """The ports of pods with these addresses."""
    return {
        address: pod.ofport
        for pod in host.pods
        if pod.ofport is not None
        for address in pod.addresses
        if address in addresses
    }


def port_matches(port: PortRange) -> Iterator[str]:
    """A range of destination ports as matches: a number with a mask each."""
    for protocol in (port.protocol, f"{port.protocol}6"):
        if (port.first, port.last) in ((0, MAX_PORT), (1, MAX_PORT)):
            yield protocol
            continue
        first = port.first
        while first <= port.last:
            size = first & -first or MAX_PORT + 1
            while first + size - 1 > port.last:
                size //= 2
            mask = MAX_PORT + 1 - size
            where = f"{first}" if size == 1 else f"{first:#x}/{mask:#x}"
            yield f"{protocol},tp_dst={where}"
            first += size


TRACK = Table("track", Stage.PRE_ROUTING, Traffic.IP, _track, miss=Miss.NEXT)
EGRESS_POLICY = Table(
    "egress-policy",
    Stage.PRE_ROUTING,
    Traffic.IP,
    _egress,
    miss=Miss.NEXT,
    drop_reasons={"policy_egress": 9},
)
INGRESS_POLICY = Table(
    "ingress-policy",
    Stage.PRE_ROUTING,
    Traffic.IP,
    _ingress,
    miss=Miss.NEXT,
    drop_reasons={"policy_ingress": 10},
)
