# SPDX-License-Identifier: Apache-2.0
"""The overlay controller: what the backend wants in kernel tables, for this host and its peers.

The desired state is `base | peer(a) | peer(b) | ...`, and each peer's part is remembered, so
that one changed lease is one peer's part taken out and one put in. Applying just that
difference is what keeps a change at milliseconds with thousands of peers present.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.controller import Change, Dirty, Report
from agent.controllers.standing_devices import StandingDevices
from agent.inputs import HostInputs, ReconcileInputs
from agent.kernel_applier import KernelChange, StateApplier
from backend.metric_sample import MetricSample
from hostnet.kinds.gateway_bridge import GatewayBridge, GatewayDevice
from hostnet.state import HostState, merge
from ipam.lease import Lease, PeerUnusableError
from ipam.subnet_env import SubnetEnv

log = logging.getLogger("agent.overlay")


@dataclass(slots=True)
class PeerParts:
    """The desired state for one `HostInputs`, kept per peer. Pure but for what it remembers."""

    host: HostInputs
    bridge: str = ""
    """To be made with the gateways' addresses before the first pod; empty: none."""
    parts: dict[str, HostState] = field(default_factory=dict)
    """By lease key."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Why a peer has no part, by lease key."""
    uses: Counter[Any] = field(default_factory=Counter)
    """In how many parts a value is: two leases of one host share entries."""

    def whole(self) -> HostState:
        """Everything this host should hold for its backend."""
        base = self.host.backend.base(self.host.own, self.host.underlay)
        return merge([base, self._gateway_bridge(base), *self.parts.values()])

    def _gateway_bridge(self, base: HostState) -> HostState:
        """The bridge, where the backend has no device of its own with these addresses."""
        if not self.bridge or base.only([GatewayBridge, GatewayDevice]):
            return HostState()
        host = self.host
        mtu = host.backend.mtu(host.underlay)
        env = SubnetEnv.of(host.config, host.own, mtu=mtu, ip_masq=host.ip_masq)
        gateways = tuple(str(one) for one in (env.subnet, env.ipv6_subnet) if one is not None)
        return HostState([GatewayBridge(self.bridge, mtu, gateways)])

    def update(
        self, leases: Mapping[str, Lease], keys: Iterable[str]
    ) -> tuple[HostState, HostState]:
        """Take in the leases under `keys` as they are now; returns (before, after) of their parts.

        A key that is in `keys` but not in `leases` has gone.
        """
        before, after = [], []
        for key in keys:
            old = self.parts.pop(key, None)
            if old is not None:
                before.append(old)
                self.uses.subtract(_values(old))
            self.unusable.pop(key, None)
            lease = leases.get(key)
            if lease is None or not self.host.is_peer(lease):
                continue
            try:
                part = self.host.backend.peer(lease, self.host.own, self.host.underlay)
            except PeerUnusableError as problem:
                self.unusable[key] = str(problem)
                continue
            self.parts[key] = part
            after.append(part)
            self.uses.update(_values(part))
        gone, come = merge(before), merge(after)
        # what another lease needs as well stays
        gone = HostState([v for v in _values(gone) if not self.uses[v] or v in come.of(type(v))])
        for value in _values(gone):
            if not self.uses[value]:
                del self.uses[value]
        return gone, come


def _values(state: HostState) -> list[Any]:
    return [value for group in state.groups() for value in group]


class OverlayController:
    """Fits `agent.controller.Controller`."""

    name = "overlay"
    depends_on = Change.LEASES | Change.KERNEL | Change.CLOCK
    rereads_on = Change.KERNEL
    after = ("encryption", "devices")
    """Routes name devices that the data plane makes."""
    preferably_after = ("publish",)
    required_for_pods = True
    worker = "overlay"

    def __init__(self, applier: StateApplier, bridge: str = "") -> None:
        """Take an applier of the overlay's owner; `close` closes it.

        `bridge` is to be made before the first pod.
        """
        self._applier = applier
        self._bridge = bridge
        self._parts: PeerParts | None = None
        self._stands = StandingDevices()
        self.unusable: Mapping[str, str] = {}
        """Why a peer is left out, by lease key. Replaced, never changed."""
        self.peers = 0
        """Number of peers that were applied."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> KernelChange:
        """The whole state, or the parts of the peers that changed."""
        parts = self._parts
        if dirty.whole or parts is None or parts.host != inputs.host:
            self._parts = parts = PeerParts(inputs.host, self._bridge)
            parts.update(inputs.leases, inputs.leases)
            change: KernelChange = (None, parts.whole())
        else:
            change = parts.update(inputs.leases, dirty.keys)
        for key in parts.unusable.keys() - self.unusable.keys():
            log.warning("%s", parts.unusable[key])
        self.unusable = dict(parts.unusable)
        return change

    def apply(self, desired: KernelChange) -> Report:
        """Write the kernel's tables."""
        report = self._applier.apply(desired)
        if self._parts is not None:
            self.peers = len(self._parts.parts)
            known = self._stands.failures if desired[0] is not None else ()
            self._stands = StandingDevices(self._parts.host, (*known, *report.failures))
            if report.failures and (why := self._stands.problem()) is not None:
                report.failures.insert(0, why)
        return report

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands, and a comment for each peer that is left out."""
        parts = PeerParts(inputs.host, self._bridge)
        parts.update(inputs.leases, inputs.leases)
        skipped = [f"# skipped: {reason}" for reason in parts.unusable.values()]
        return self._applier.plan(parts.whole()) + skipped

    def status(self) -> str | None:
        """Which device of the backend does not stand, and why."""
        return self._stands.problem()

    def samples(self) -> list[MetricSample]:
        """Peers, and leases that can't be used."""
        return [
            MetricSample("peers", "Peers programmed", self.peers, gauge=True),
            MetricSample(
                "unusable_peers", "Leases this host can't use", len(self.unusable), gauge=True
            ),
        ]

    def close(self) -> None:
        """Close the sockets."""
        self._applier.close()

    def cleanup(self) -> list[str]:
        """Remove devices, routes, neighbours and FDB entries with the overlay's marks."""
        return self._applier.cleanup(log.info)
