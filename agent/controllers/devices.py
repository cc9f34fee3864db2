# SPDX-License-Identifier: Apache-2.0
"""The devices controller: devices that only another program can make, before routes name them.

Open vSwitch makes obr0, wireguard-go its TUN device. All other devices are objects of the overlay
controller's desired state.
"""

from __future__ import annotations

from agent.controller import Change, Dirty, Report
from agent.data_plane_owner import DataPlaneOwner
from agent.inputs import HostInputs, ReconcileInputs
from backend.metric_sample import MetricSample


class DevicesController:
    """Fits `agent.controller.Controller`."""

    name = "devices"
    depends_on = Change.KERNEL | Change.DATA_PLANE
    rereads_on = Change.KERNEL | Change.DATA_PLANE
    after = ("encryption",)
    preferably_after = ()
    required_for_pods = True
    worker = "data plane"

    def __init__(self, owner: DataPlaneOwner) -> None:
        self._owner = owner

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> HostInputs:
        """The devices follow from the host's own inputs."""
        del dirty
        return inputs.host

    def apply(self, desired: HostInputs) -> Report:
        """Make them. Raises OSError."""
        plane = self._owner.of(desired.backend)
        if plane is not None:
            plane.prepare(desired.own, desired.underlay)
        return Report()

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """Nothing: the data plane's own plan has it."""
        del inputs
        return []

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """The data plane controller closes what they share."""

    def cleanup(self) -> list[str]:
        """The data plane controller cleans up what they share."""
        return []
