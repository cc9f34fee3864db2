# SPDX-License-Identifier: Apache-2.0
"""Which datapath Open vSwitch can use here: the kernel's, or its own in userspace.

Source: linux/openvswitch.h, OVS_DATAPATH_FAMILY.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostnet.netlink.generic import has_family

FAMILY = "ovs_datapath"


@dataclass(frozen=True, slots=True)
class Datapath:
    """The choice, and why."""

    type: str
    """`system` or `netdev`: the Bridge's datapath_type."""
    reason: str

    @property
    def userspace(self) -> bool:
        """Whether packets go through ovs-vswitchd itself."""
        return self.type == "netdev"

    @property
    def sets_nd_options(self) -> bool:
        """Whether flows can set the options of neighbour discovery.

        Only the userspace datapath has the field (ovs-fields(7), nd_options_type); on the
        kernel's, ovs-vswitchd refuses a flow that sets it: OFPBAC_BAD_SET_ARGUMENT.
        """
        return self.userspace


def choose_datapath(wanted: str) -> Datapath:
    """The datapath for `auto`, `system` or `netdev`."""
    if wanted != "auto":
        return Datapath(wanted, "the cluster config says so")
    if has_family(FAMILY):
        return Datapath("system", "the kernel has openvswitch")
    return Datapath("netdev", "the kernel has no openvswitch")
