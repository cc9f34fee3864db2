# SPDX-License-Identifier: Apache-2.0
"""Names of the bridges and devices of the mesh on a host.

Names stay from one version to the next: a running mesh is found by them after an upgrade.
"""

from __future__ import annotations

KBR0 = "kbr0"
"""The Linux bridge of the pods."""
OBR0 = "obr0"
"""The Open vSwitch bridge of the mesh."""
KBR0_VETH, OBR0_VETH = "kbr0-obr0", "obr0-kbr0"
"""The veth pair between kbr0 and obr0: its end in kbr0, and its end in obr0."""
UNDERLAY_BRIDGE = "obr0-phy"
"""The Open vSwitch bridge through which the userspace datapath reaches the underlay."""
UNDERLAY_VETH, UNDERLAY_BRIDGE_VETH = "phy-host", "phy-ovs"
"""The veth pair to it: the end that stays a device of the host, and the end in the bridge."""
