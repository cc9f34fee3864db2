# SPDX-License-Identifier: Apache-2.0
"""What a reconcile applied to Open vSwitch, as the next one may take it for granted."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_mesh.rows import BridgeRow


@dataclass(frozen=True, slots=True)
class AppliedState:
    """All that was written, in the form it was written in."""

    rows: list[BridgeRow]
    ofports: dict[str, int]
    """OpenFlow port numbers of obr0's ports by name."""
    flows: frozenset[str]
    """Of obr0, as lines."""
    pod_veths: dict[str, int]
    """Host ends of pods' veth pairs that are ports of obr0: interface index by name."""

    def has_other_veth(self, pod_veths: dict[str, int]) -> bool:
        """Whether a pod's veth pair was made anew under a name that was in use before.

        Open vSwitch then still holds the port of the pair that is gone.
        """
        known = self.pod_veths
        return any(known.get(name, index) != index for name, index in pod_veths.items())
