# SPDX-License-Identifier: Apache-2.0
"""The controller of floating addresses: it tells the task that holds them where this host is.

The task (`services.vip.holder`) works by its own clock, as what it does must be done within seconds
of a lease.
"""

from __future__ import annotations

import logging
import socket

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from agent.settings import Settings
from backend.metric_sample import MetricSample
from services.vip.device import HostPlace
from services.vip.holder import VipHolder

log = logging.getLogger("agent.vips")


class VipsController:
    """Fits `agent.controller.Controller`."""

    name = "vips"
    depends_on = Change.NONE
    rereads_on = Change.NONE
    after = ()
    preferably_after = ()
    required_for_pods = False
    worker = "vips"

    def __init__(self, settings: Settings, holder: VipHolder) -> None:
        self._settings = settings
        self._holder = holder

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> HostPlace | None:
        """Where this host is; None on an underlay without MACs."""
        del dirty
        underlay, attributes = inputs.host.underlay, inputs.host.own.attributes
        addresses = (attributes.public_ip, attributes.public_ipv6)
        names = [str(one) for one in addresses if one is not None]
        names.append(self._settings.host_name or socket.gethostname())
        return HostPlace(tuple(names), underlay.link, underlay.mac) if underlay.mac else None

    def apply(self, desired: HostPlace | None) -> Report:
        """Tell the task."""
        self._holder.place = desired
        return Report()

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """Nothing: who holds an address is only known when it is tried."""
        del inputs
        return []

    def status(self) -> str | None:
        """What is wrong with one of them."""
        return next(iter(dict(self._holder.problems).values()), None)

    def samples(self) -> list[MetricSample]:
        """How many are here."""
        count = len(self._holder.held)
        return [
            MetricSample(
                "floating_addresses", "Floating addresses held by this host", count, gauge=True
            )
        ]

    def close(self) -> None:
        """The kernel removes the addresses in some seconds, unless a daemon goes on before."""

    def cleanup(self) -> list[str]:
        """Remove them. Raises OSError."""
        for one in self._holder.device.drop_all():
            log.info("ip addr del %s", one)
        return []
