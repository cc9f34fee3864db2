# SPDX-License-Identifier: Apache-2.0
"""The encryption controllers: with an encrypting backend no pod's packet leaves in clear.

Two, as one can't be both before and after the others: `encryption` puts the table in place before
anything of the backend is made, `clear text` takes it away after all of another backend's data
plane stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from agent.controller import Change, Dirty, Report
from agent.controllers.closed_networks import ClosedNetworks
from agent.inputs import ReconcileInputs
from agent.kernel_applier import StateApplier
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError
from flannel.encryption import REASON, encryption_table
from hostnet.kinds.nft_table import NftTable
from hostnet.nft.counters import read_counters
from hostnet.ownership import ENCRYPTION_TABLE
from hostnet.state import HostState

log = logging.getLogger("agent.encryption")


class EncryptionError(FlatmeshError):
    """The table can't be put in place, or must not be taken away yet."""


def wanted_table(
    inputs: ReconcileInputs, earlier: Iterable[IPv4Network | IPv6Network] = ()
) -> NftTable | None:
    """The table, for earlier networks of the cluster, too; None where nothing is encrypted."""
    host = inputs.host
    devices = host.backend.encrypting_devices()
    if not devices:
        return None
    networks = dict.fromkeys([*host.config.networks, *earlier])
    return encryption_table(devices, networks, host.own.subnets)


@dataclass(slots=True)
class EncryptionController:
    """Puts the table in place. Fits `agent.controller.Controller`."""

    applier: StateApplier
    """Of the table's owner; `close` closes it."""
    closed: ClosedNetworks
    """What the daemon before had closed."""
    name: str = "encryption"
    depends_on: Change = Change.NFTABLES
    rereads_on: Change = Change.NFTABLES
    after: tuple[str, ...] = ()
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = True
    worker: str = "encryption"
    _networks: list[IPv4Network | IPv6Network] = field(default_factory=list)
    """Of all configs since the backend encrypts: when the network is changed, pods that run keep
    their addresses of the one before, and no route leads those of other hosts into the tunnel."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> NftTable | None:
        """The table; None: nothing is put in place, and nothing taken away."""
        del dirty
        table = wanted_table(inputs, self._earlier())
        networks = inputs.host.config.networks if table is not None else []
        kept = self._earlier() if table is not None else []
        self._networks = list(dict.fromkeys([*kept, *networks]))
        return table

    def _earlier(self) -> list[IPv4Network | IPv6Network]:
        return self._networks or self.closed.still_used()

    def apply(self, desired: NftTable | None) -> Report:
        """Put it in place. Raises EncryptionError, which keeps the backend from being set up."""
        if desired is None:
            self.closed.write([])
            return Report()
        report = self.applier.apply((None, HostState(tables=[desired])))
        if report.failures:
            why = report.failures[0]
            raise EncryptionError(f"pods' packets could leave unencrypted, so none leave: {why}")
        self.closed.write(self._networks)
        return report

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands."""
        table = wanted_table(inputs, self._earlier())
        return self.applier.plan(HostState(tables=[table] if table is not None else []))

    def status(self) -> str | None:
        """Nothing to ask: it is repaired when the kernel tells of a change."""
        return None

    def samples(self) -> list[MetricSample]:
        """What was dropped, beside the reasons of the forwarding controller."""
        text = "Packets dropped by this host's filter, by reason"
        found = read_counters("inet", ENCRYPTION_TABLE)
        return [
            MetricSample("dropped_packets", text, packets, {"reason": name})
            for name, packets in found.items()
            if name == REASON
        ]

    def close(self) -> None:
        """Close the sockets; the table stays."""
        self.applier.close()

    def cleanup(self) -> list[str]:
        """Remove the table. The last controller to do so: no pod is left that could send."""
        self.closed.write([])
        return self.applier.cleanup(log.info)


@dataclass(slots=True)
class ClearTextController:
    """Takes the table away. Fits `agent.controller.Controller`."""

    applier: StateApplier
    """The other controller's."""
    obstacle: Callable[[], str | None]
    """Why the data plane does not stand."""
    name: str = "clear text"
    depends_on: Change = Change.NFTABLES
    rereads_on: Change = Change.NFTABLES
    after: tuple[str, ...] = ("encryption", "devices", "overlay", "forwarding", "data plane")
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = True
    worker: str = "encryption"

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> bool:
        """Whether the table is to go."""
        del dirty
        return wanted_table(inputs) is None

    def apply(self, desired: bool) -> Report:
        """Take it away. Raises EncryptionError while the data plane does not stand."""
        if not desired:
            return Report()
        if self.applier.plan(HostState()) and (why := self.obstacle()) is not None:
            raise EncryptionError(f"pods' packets are dropped until they can be carried: {why}")
        return self.applier.apply((None, HostState()))

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """Nothing: the other controller's plan has it."""
        del inputs
        return []

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """The other controller closes what they share."""

    def cleanup(self) -> list[str]:
        """The other controller removes the table."""
        return []
