# SPDX-License-Identifier: Apache-2.0
"""The flows of obr0: the tables in their order, and the flows of all of them. Pure.

    number name        what it does
    0      classify    where from: this host, a pod, a tunnel of the mesh; anything else is dropped
    10     anti-spoof  a frame of this host carries only addresses that its sender may use
    20     ingress     a frame from a tunnel has an inner source that its sender owns
    30     neighbour   ARP and ND: answered here (flow), or sent to the one owner (static)
    31     answer      the last touch to an answer to ND
    35     track       with network policies of pods on obr0: is it a reply?
    36     egress-policy   may the pod send it?
    37     ingress-policy  may the pod receive it?
    40     local       to this host's pods
    50     remote      to the peer that owns the destination
    60     flood       static only: broadcast of this host to every peer, never from peer to peer
    250    dropped     what tells of an attack or a fault: a flow, and so a counter, per reason

docs/ovs-pipeline.md describes them for operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ovs_mesh.config import OvsConfig
from ovs_mesh.inputs import HostInputs, HostSide, PeerInputs
from ovs_mesh.pipeline import Pipeline
from ovs_mesh.tables.classification import CLASSIFY
from ovs_mesh.tables.dropped import DROPPED
from ovs_mesh.tables.ingress import INGRESS
from ovs_mesh.tables.local import LOCAL
from ovs_mesh.tables.neighbour import ANSWER, NEIGHBOUR
from ovs_mesh.tables.policy import EGRESS_POLICY, INGRESS_POLICY, TRACK
from ovs_mesh.tables.remote import FLOOD, REMOTE
from ovs_mesh.tables.spoof import ANTI_SPOOF
from ovs_mesh.topology import Peer

TABLES = (CLASSIFY, ANTI_SPOOF, INGRESS, NEIGHBOUR, ANSWER, LOCAL, REMOTE, FLOOD, DROPPED)
PIPELINE = Pipeline(TABLES)
POLICY_TABLES = (TRACK, EGRESS_POLICY, INGRESS_POLICY)
POLICY_PIPELINE = Pipeline((*TABLES[:5], *POLICY_TABLES, *TABLES[5:]))
"""While network policies are enforced on pods that are ports of obr0."""


@dataclass(slots=True)
class PeerFlowCache:
    """Flows of peers, kept from one reconcile to the next.

    Writing thousands of lines is what takes the time, so only those of peers that changed are
    written anew. A peer is known by its identity: the caller keeps the `Peer` of a lease that
    did not change.
    """

    _inputs: tuple[PeerInputs, Pipeline] | None = None
    _known: dict[int, tuple[Peer, int, list[str]]] = field(default_factory=dict)
    """Peer, port and flows by id(peer), which no other object gets while the peer is in here."""

    def flows(
        self,
        pipeline: Pipeline,
        inputs: PeerInputs,
        peers: Iterable[Peer],
        ofports: Mapping[str, int],
    ) -> list[str]:
        """The flows of these peers; those of all others are forgotten."""
        before = self._known if (inputs, pipeline) == self._inputs else {}
        self._inputs, self._known = (inputs, pipeline), {}
        lines: list[str] = []
        for peer in peers:
            ofport = ofports[peer.port]
            known = before.get(id(peer))
            if known is None or known[1] != ofport:
                known = (peer, ofport, pipeline.peer_flows(inputs, peer, ofport))
            self._known[id(peer)] = known
            lines += known[2]
        return lines


def all_flows(
    config: OvsConfig,
    host: HostSide,
    peers: Sequence[Peer],
    ofports: Mapping[str, int],
    cache: PeerFlowCache | None = None,
    pipeline: Pipeline | None = None,
) -> list[str]:
    """All flows of obr0, a line of ovs-ofctl(8) each.

    A peer whose tunnel port `ofports` lacks is left out until the port is open.
    """
    if pipeline is None:
        pipeline = PIPELINE if host.isolation is None else POLICY_PIPELINE
    present = [peer for peer in peers if peer.port in ofports]
    lines = pipeline.host_flows(HostInputs(config, host, present, ofports))
    inputs = PeerInputs(config.mesh, config.spanning_tree, host.subnets, host.gateway_mac)
    cache = cache if cache is not None else PeerFlowCache()
    return lines + cache.flows(pipeline, inputs, present, ofports)
