# SPDX-License-Identifier: Apache-2.0
"""The mesh controller: clients' packets to published ports reach the endpoint's host unchanged.

While no published port has an endpoint, or there is no peer, there is no device, no table and no
hook. What can't be had on this kernel is reported; published ports are then translated on the host
that the client asks, as `services.ruleset` does for all that the mesh does not take.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_address

from agent.controller import Change, Dirty, Report
from agent.controllers.services import MANY_ELEMENTS
from agent.inputs import HostInputs, ReconcileInputs
from agent.kernel_applier import KernelChange, StateApplier
from agent.services.ingress_support import obstacle
from agent.services.judged import JudgedServices
from agent.services.members import Tunnel, device_state, member, peers, tunnel
from backend.metric_sample import MetricSample
from hostnet.nft.counters import read_counters
from hostnet.nft.sets import NftSet
from hostnet.ownership import MESH_TABLE
from hostnet.state import HostState
from services.mesh.ingress import IngressElements
from services.mesh.member import Member, Places, marks
from services.mesh.rules import MeshRules, member_elements, member_sets
from services.model import Service

log = logging.getLogger("agent.mesh")
NOTHING = HostState()


@dataclass(slots=True)
class MeshParts:
    """What the desired state for one `HostInputs` and one set of peers is made of."""

    host: HostInputs
    own: Member
    through: Tunnel
    marks: dict[Member, int]
    ingress: IngressElements
    maps: frozenset[NftSet] = frozenset()
    """Those that the table has rules for."""
    up: bool = False


class MeshController:
    """Fits `agent.controller.Controller`."""

    name = "mesh"
    depends_on = Change.SERVICES | Change.LEASES | Change.MESH | Change.CLOCK
    rereads_on = Change.MESH
    after = ()
    preferably_after = ("services", "overlay")
    required_for_pods = False
    worker = "services"

    def __init__(self, applier: StateApplier, judged: JudgedServices) -> None:
        """Take an applier of the mesh's owner, which `close` closes, and what is served."""
        self._applier = applier
        self._judged = judged
        self._parts: MeshParts | None = None

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> KernelChange | None:
        """The whole state, or the elements that change; None: the services are not known yet."""
        judged, parts = self._judged, self._parts
        if not judged.known:
            return None
        if parts is not None and parts.host == inputs.host and _only_resync(dirty, parts):
            dirty = Dirty()
        whole = dirty.whole or bool(dirty.keys) or judged.whole
        if whole or parts is None or parts.host != inputs.host:
            judged.take()
            self._parts = parts = _parts(inputs)
            if parts is None:
                return None, NOTHING
            parts.ingress.update(judged.allowed, judged.services)
            return None, _whole(parts)
        gone, come = parts.ingress.update(judged.allowed, judged.take())
        maps = parts.ingress.maps()
        if bool(parts.ingress.published) != parts.up or not maps <= parts.maps:
            return None, _whole(parts)
        return HostState(gone), HostState(come)

    def apply(self, desired: KernelChange | None) -> Report:
        """Write what differs."""
        return self._applier.apply(desired) if desired is not None else Report()

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands; nothing where the services were not read."""
        wanted = self.desired(inputs, Dirty(whole=True))
        return self._applier.plan(wanted[1]) if wanted is not None else []

    def status(self) -> str | None:
        """What this kernel lacks, where there is something to serve."""
        published = any(one.published_port for s in self._services() for one in s.ports)
        why = obstacle() if published else None
        return (
            f"published ports are translated, without the client's address: {why}" if why else None
        )

    def _services(self) -> list[Service]:
        return [*self._judged.allowed.values()]

    def samples(self) -> list[MetricSample]:
        """What the table has dropped, beside the reasons of the forwarding controller."""
        text = "Packets dropped by this host's filter, by reason"
        return [
            MetricSample("dropped_packets", text, packets, {"reason": name})
            for name, packets in sorted(read_counters("inet", MESH_TABLE).items())
        ]

    def close(self) -> None:
        """Close the sockets; the mesh stays."""
        self._applier.close()

    def cleanup(self) -> list[str]:
        """Remove the device, the tables, the rules and the routes."""
        return self._applier.cleanup(log.info)


def _only_resync(dirty: Dirty, parts: MeshParts) -> bool:
    """Whether nothing has happened, and reading all elements back would take seconds."""
    if dirty.reasons != ["resync"]:
        return False
    return sum(len(one) for one in parts.ingress.parts.values()) > MANY_ELEMENTS


def _parts(inputs: ReconcileInputs) -> MeshParts | None:
    through = tunnel(inputs.host)
    if through is None:
        return None
    own = member(inputs.host.own, inputs.host, through.family)
    others = peers(inputs, through.family)
    if own is None or not others:
        return None
    ingress = IngressElements(Places.of([*others, own]), own)
    return MeshParts(inputs.host, own, through, marks(others), ingress)


def _whole(parts: MeshParts) -> HostState:
    """The whole desired state; none where no published port has an endpoint."""
    parts.up = bool(parts.ingress.published)
    parts.maps = parts.ingress.maps()
    if not parts.up:
        return NOTHING
    host = parts.host
    rules = MeshRules(
        parts.own, host.underlay.link, parts.through.mtu, host.config.networks, parts.maps
    )
    remotes = [ip_address(one.remote) for one in parts.marks]
    return device_state(parts.own, parts.through, parts.marks) | HostState(
        tables=rules.tables(),
        sets=member_sets() | parts.maps,
        elements=member_elements(parts.marks, parts.own, remotes) | parts.ingress.all(),
    )
