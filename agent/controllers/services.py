# SPDX-License-Identifier: Apache-2.0
"""The services controller: the load balancer of this host.

While no service is configured there is no table, and nothing is asked of a packet.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from agent.controller import Change, Dirty, Report
from agent.etcd_addresses import EtcdAddresses
from agent.inputs import HostInputs, ReconcileInputs
from agent.kernel_applier import KernelChange, StateApplier
from agent.services.feed import BALANCER, ServiceFeed, TakenServices
from agent.services.judged import JudgedServices
from agent.services.reserved import reserved_ports
from backend.metric_sample import MetricSample
from flannel import host_table
from hostnet.conntrack import bridged
from hostnet.conntrack.entries import connections, delete
from hostnet.kernel import Kernel
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import RT_SCOPE_LINK
from hostnet.netlink.attributes import pack_address
from hostnet.state import HostState
from services.balancer import SlotMap
from services.elements import BalancerElements
from services.model import Service
from services.ruleset import BRIDGE, Ruleset, with_next
from services.served import ServedService, disputed
from services.stale import Target, Translations, destination

log = logging.getLogger("agent.services")
FEW_TARGETS = 32
"""For as many the kernel is asked one by one which connections are theirs."""
MANY_ELEMENTS = 20_000
"""As many are compared with the kernel's at each resync."""


@dataclass(slots=True)
class ServedState:
    """What is served for one `HostInputs`."""

    host: HostInputs
    services: dict[str, ServedService] = field(default_factory=dict)
    allowed: dict[str, Service] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    elements: BalancerElements = field(init=False)
    maps: frozenset[SlotMap] = frozenset()
    """Those that the table has rules for."""
    lengths: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        """Begin without services."""
        self.elements = BalancerElements(host_table.families(self.host.config, self.host.own))


@dataclass(frozen=True, slots=True)
class WantedServices:
    """What one apply is to do."""

    change: KernelChange
    served: bool
    """Whether there is any service."""
    forget: Collection[Target]
    """Targets whose tracked connections may lead to endpoints that are gone."""


class ServicesController:
    """Fits `agent.controller.Controller`."""

    name = "services"
    depends_on = Change.SERVICES | Change.NFTABLES | Change.POD_LINKS | Change.CLOCK
    rereads_on = Change.NFTABLES
    after = ()
    preferably_after = ("forwarding",)
    required_for_pods = False
    worker = "services"

    def __init__(
        self,
        applier: StateApplier,
        feed: ServiceFeed,
        etcd: EtcdAddresses,
        metrics_port: int,
        judged: JudgedServices,
        *,
        tracked: bool = False,
    ) -> None:
        """Take an applier of the services' owner, which `close` closes, and where they are from.

        What is served is told to `judged`. `tracked`: connections between the pods on this host
        are tracked in any case, for network policies.
        """
        self._tracked_always = tracked
        self._judged_services = judged
        self._applier = applier
        self._feed = feed
        self._etcd = etcd
        self._metrics_port = metrics_port
        self._state: ServedState | None = None
        self._translations = Translations()
        self._tracked: bool | None = None
        """Whether the pods' bridge was told to track, as far as we know."""
        self._bridged = True
        self._must_forget: set[Target] = set()
        """Whose connections are still to be forgotten, as an apply before has failed."""
        self._refused: tuple[str, ...] = ()

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> WantedServices | None:
        """The whole state, or the elements that change; None: what there is is not known yet."""
        state = self._state
        if state is not None and state.host == inputs.host and _only_resync(dirty, state):
            dirty = Dirty()
        whole = dirty.whole or state is None or state.host != inputs.host
        taken = self._feed.take(BALANCER, whole=whole)
        if taken is None:
            return None
        self._refused = taken.refused
        self._judged_services.known = True
        if whole or state is None:
            return self._whole(inputs.host, taken)
        if not taken.services:
            return WantedServices((HostState(), HostState()), bool(state.services), ())
        served_before = bool(state.services)
        changed = self._judged(state, taken)
        forget = self._translations.update(state.allowed, changed)
        gone, come = state.elements.update(state.allowed, changed)
        maps, lengths = _used(state.elements)
        served = bool(state.services)
        if served != served_before or not (maps <= state.maps and lengths <= state.lengths):
            return WantedServices((None, self._all(state)), served, forget)
        return WantedServices((HostState(gone), HostState(come)), True, forget)

    def _whole(self, host: HostInputs, taken: TakenServices) -> WantedServices:
        self._state = state = ServedState(host)
        gone = self._translations.by_service.keys() - taken.services.keys()
        self._judged_services.whole = True
        changed = self._judged(state, taken)
        forget = self._translations.update(state.allowed, changed | dict.fromkeys(gone))
        state.elements.fill(state.allowed, changed)
        return WantedServices((None, self._all(state)), bool(state.services), forget)

    def _judged(self, state: ServedState, taken: TakenServices) -> dict[str, ServedService | None]:
        """Take services in; returns those that are to be computed anew."""
        same_specs = True
        for name, one in taken.services.items():
            before = state.services.get(name)
            if one is None:
                state.services.pop(name, None)
            else:
                state.services[name] = one
            same_specs &= (
                before is not None
                and one is not None
                and ((before.service, before.since) == (one.service, one.since))
            )
        changed = dict(taken.services)
        if same_specs:
            self._tell(state, changed)
            return changed
        host = state.host
        reserved = reserved_ports(host, self._etcd.ports, self._metrics_port)
        allowed, problems = disputed(
            state.services.values(), host.config.service_networks, reserved
        )
        for name in allowed:
            if allowed[name] != state.allowed.get(name):
                changed.setdefault(name, state.services[name])
        for key in problems.keys() - state.problems.keys():
            log.warning("%s", problems[key])
        state.allowed, state.problems = allowed, problems
        self._tell(state, changed)
        return changed

    def _tell(self, state: ServedState, changed: Mapping[str, ServedService | None]) -> None:
        judged = self._judged_services
        judged.services, judged.allowed = state.services, state.allowed
        judged.changed.update(changed)

    def _all(self, state: ServedState) -> HostState:
        """The whole desired state; none without services."""
        if not state.services:
            state.maps, state.lengths = frozenset(), frozenset()
            return HostState()
        maps, state.lengths = _used(state.elements)
        state.maps = with_next(maps)
        host = state.host
        networks = host.config.service_networks
        rules = Ruleset(
            networks,
            state.elements.pods,
            state.maps,
            state.lengths,
            self._bridged,
        )
        link = host.underlay.link
        return HostState(
            tables=[rules.table()],
            sets=rules.sets(),
            slots=frozenset(state.elements.slots()),
            elements=state.elements.others(),
            routes=[Route(str(one), link, scope=_link_scope(one.version)) for one in networks],
        )

    def apply(self, desired: WantedServices | None) -> Report:
        """Write what differs, and forget connections that lead nowhere."""
        if desired is None:
            return Report()
        problems: list[str] = []
        self._must_forget.update(desired.forget)
        self._track(desired.served)
        report = self._applier.apply(desired.change)
        if self._must_forget:
            problems = self._forget(self._must_forget)
            self._must_forget = set()
        return Report(report.changes, report.lines, [*report.failures, *problems], report.again)

    def _track(self, served: bool) -> None:
        """Have connections between the pods on this host tracked while there are services."""
        if served and self._tracked is None:
            self._bridged = bridged.available()
        if not served and not self._tracked:
            return
        with Kernel() as kernel:
            bridged.track(kernel.socket, BRIDGE, on=served or self._tracked_always)
        self._tracked = served

    def _forget(self, targets: Collection[Target]) -> list[str]:
        few = [destination(one) for one in targets] if len(targets) <= FEW_TARGETS else None
        with Kernel() as kernel:
            local = {
                pack_address(one.address.address.partition("/")[0])[1] for one in kernel.addresses()
            }
        stale = list(self._translations.stale(connections(to=few), local))
        if stale:
            log.info("forgetting %d connections to endpoints that are gone", len(stale))
        return delete(stale)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands; nothing where the services were not read."""
        wanted = self.desired(inputs, Dirty(whole=True))
        return self._applier.plan(wanted.change[1]) if wanted is not None else []

    def status(self) -> str | None:
        """Nothing to ask: what the kernel refused is in the report."""
        return None

    def samples(self) -> list[MetricSample]:
        """How many are served, and how many are not."""
        state = self._state
        if state is None:
            return []
        refused = len(self._refused) + len(state.problems)
        return [
            MetricSample("services", "Services that are served", len(state.allowed), gauge=True),
            MetricSample(
                "refused_services",
                "Services, endpoints, ports and addresses that are not served",
                refused,
                gauge=True,
            ),
        ]

    def close(self) -> None:
        """Close the sockets; services go on."""
        self._applier.close()

    def cleanup(self) -> list[str]:
        """Remove the table and the routes."""
        return self._applier.cleanup(log.info)


def _only_resync(dirty: Dirty, state: ServedState) -> bool:
    """Whether nothing has happened, and reading all elements back would take seconds.

    The kernel reads a map from its begin for each 32 KiB of a listing. What other programs change
    in the table is told, and is a reason of its own.
    """
    return dirty.reasons == ["resync"] and state.elements.size() > MANY_ELEMENTS


def _used(elements: BalancerElements) -> tuple[frozenset[SlotMap], frozenset[tuple[int, int]]]:
    """The maps, and the lengths of sources."""
    names = [one.name for one in elements.used_sets()]
    maps, lengths = set(), set()
    for name in names:
        if name.startswith(("virtual", "published")):
            kind, protocol, selection, slots = name.split("_")
            maps.add(SlotMap(kind[:-1], int(kind[-1]), protocol, selection, int(slots)))
        elif name.startswith("sources"):
            family, bits = name.removeprefix("sources").split("_")
            lengths.add((int(family), int(bits)))
    return frozenset(maps), frozenset(lengths)


def _link_scope(version: int) -> int:
    return RT_SCOPE_LINK if version == 4 else 0
