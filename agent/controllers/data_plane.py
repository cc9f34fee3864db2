# SPDX-License-Identifier: Apache-2.0
"""The data plane controller: the part of a backend that lives outside kernel tables.

Open vSwitch's rows and flows, WireGuard's peers, the udp process's table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.controller import Change, Dirty, Report
from agent.data_plane_owner import DataPlaneOwner
from agent.inputs import HostInputs, ReconcileInputs
from agent.policy.feed import PolicyFeed
from backend.metric_sample import MetricSample
from backend.protocol import DataPlane
from ipam.lease import Lease, PeerUnusableError

log = logging.getLogger("agent.data_plane")
MAX_LINES = 20
"""Changes beyond which the log has their number only."""
CHECK_SHARE = 0.01
"""Part of the time that may go into comparing where nothing is known to have happened: nobody tells
of changed WireGuard peers, nor that a process was killed."""
LONGEST_PAUSE = 15.0
"""Seconds from one such comparison to the next, however long it takes."""


@dataclass(frozen=True, slots=True)
class DataPlaneInputs:
    """What a data plane is driven with."""

    host: HostInputs
    peers: Sequence[Lease]
    whole: bool
    """Whether what is there may differ from what was applied last."""
    in_doubt: bool
    """Whether devices, addresses or what nobody tells the changes of may differ."""
    check_only: bool
    """Whether nothing is known to have happened."""


class DataPlaneController:
    """Fits `agent.controller.Controller`."""

    name = "data plane"
    rereads_on = Change.DATA_PLANE
    """A device that was deleted took peers along (WireGuard, udp), which `reconcile` finds by
    itself. Open vSwitch tells of its own changes: a foreign route is no reason to read it."""
    after = ("devices", "overlay")
    """A switch's ports are devices that the overlay controller makes."""
    preferably_after = ()
    required_for_pods = True
    worker = "data plane"

    def __init__(
        self,
        owner: DataPlaneOwner,
        leftover: Callable[[], Sequence[DataPlane]],
        policies: PolicyFeed | None = None,
    ) -> None:
        """`leftover` finds the data planes that may have left traces, for `cleanup`."""
        self._owner = owner
        self._policies = policies or PolicyFeed()
        self._leftover = leftover
        self._peers: UsablePeers | None = None
        self._check_again = 0.0
        """When to compare again where nothing is known to have happened; in monotonic seconds."""

    @property
    def depends_on(self) -> Change:
        """Nothing while the backend has no data plane: one lease then costs one apply less."""
        if self._owner.empty:
            return Change.NONE
        told = Change.LEASES | Change.KERNEL | Change.DATA_PLANE | Change.REDIRECT | Change.PODS
        return told | Change.CLOCK

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> DataPlaneInputs:
        """The usable peers' leases."""
        doubt = bool(dirty.changes & (Change.KERNEL | Change.REDIRECT | Change.CLOCK))
        if self._owner.without_plane(inputs.host.backend):
            self._peers = None
            return DataPlaneInputs(inputs.host, (), dirty.whole, doubt, dirty.check_only)
        peers = self._peers
        if dirty.whole or peers is None or peers.host != inputs.host:
            self._peers = peers = UsablePeers(inputs.host)
            peers.update(inputs.leases, inputs.leases)
        else:
            peers.update(inputs.leases, dirty.keys)
        usable = list(peers.leases.values())
        return DataPlaneInputs(inputs.host, usable, dirty.whole, doubt, dirty.check_only)

    def apply(self, desired: DataPlaneInputs) -> Report:
        """Drive the data plane. Raises OSError."""
        started = time.monotonic()
        if desired.check_only and started < self._check_again:
            return Report()
        plane = self._owner.of(desired.host.backend)
        if plane is not None and plane.attaches_pods and self._policies.enabled:
            plane.isolation = self._policies.isolation
            if plane.isolation is None:
                return Report()  # policies of before stay in force until they are known again
        lines = self._reconcile(plane, desired) if plane is not None else []
        self._owner.clean_up_earlier()
        if desired.check_only:
            ended = time.monotonic()
            self._check_again = ended + min((ended - started) / CHECK_SHARE, LONGEST_PAUSE)
        return Report(len(lines), lambda: lines)

    def _reconcile(self, plane: DataPlane, desired: DataPlaneInputs) -> list[str]:
        if desired.whole:
            plane.mark_dirty()
        if desired.in_doubt:
            plane.expect_drift()
        lines = plane.reconcile(desired.host.own, desired.peers, desired.host.underlay)
        for line in lines if len(lines) <= MAX_LINES else [f"{len(lines)} changes: {lines[0]} ..."]:
            log.info("%s", line)
        return lines

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The lines that `apply` would log."""
        plane = inputs.host.backend.data_plane()
        if plane is None:
            return []
        try:
            peers = UsablePeers(inputs.host)
            peers.update(inputs.leases, inputs.leases)
            usable = list(peers.leases.values())
            return plane.plan(inputs.host.own, usable, inputs.host.underlay)
        finally:
            plane.close()

    def status(self) -> str | None:
        """What the data plane says of itself."""
        plane = self._owner.plane
        return plane.problem() if plane is not None else None

    def samples(self) -> list[MetricSample]:
        """What the data plane counts itself."""
        plane = self._owner.plane
        return plane.samples() if plane is not None else []

    def close(self) -> None:
        """Close its sockets; packets are still forwarded."""
        self._owner.close()

    def cleanup(self) -> list[str]:
        """Clean up every data plane that may have run on this host."""
        problems = []
        for plane in self._leftover():
            try:
                plane.cleanup()
            except OSError as error:
                problems.append(str(error))
        return problems


@dataclass(slots=True)
class UsablePeers:
    """The leases of all peers that the backend can use, kept up by the keys that changed."""

    host: HostInputs
    leases: dict[str, Lease] = field(default_factory=dict)

    def update(self, leases: Mapping[str, Lease], keys: Iterable[str]) -> None:
        """Take in the leases under `keys` as they are now; a key not in `leases` has gone."""
        host = self.host
        for key in keys:
            self.leases.pop(key, None)
            lease = leases.get(key)
            if lease is None or not host.is_peer(lease):
                continue
            try:
                host.backend.peer(lease, host.own, host.underlay)
            except PeerUnusableError:
                continue  # the overlay controller logs why
            self.leases[key] = lease
