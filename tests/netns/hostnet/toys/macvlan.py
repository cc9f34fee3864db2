# SPDX-License-Identifier: Apache-2.0
"""MACVLAN devices (linux/if_link.h: IFLA_MACVLAN_*): a kind of device that flatmesh has no use for.

All that hostnet needs to know of it is in this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_link, change_kind_data
from hostnet.netlink.attributes import attr_u32, u32
from hostnet.netlink.socket import Request

IFLA_LINK = 5
IFLA_MACVLAN_MODE = 1
MODES = {1: "private", 2: "vepa", 4: "bridge"}


@dataclass(frozen=True, slots=True)
class Macvlan:
    """A device of its own hardware address on top of another."""

    lower: str
    mode: str


class MacvlanKind:
    """Fits `hostnet.kinds.links.device_kind.DeviceKind`."""

    name = "macvlan"
    details = Macvlan
    adopts_unmarked = False

    def add(self, name: str, common: bytes, details: Macvlan, index: Mapping[str, int]) -> Request:
        """Make it on its lower device."""
        del name
        return add_link(
            "macvlan", common + attr_u32(IFLA_LINK, index[details.lower]), _data(details)
        )

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Macvlan:
        """The lower device and the mode."""
        mode = MODES.get(u32(found.data.get(IFLA_MACVLAN_MODE)), "")
        return Macvlan(names.get(found.parent, ""), mode)

    def can_become(self, have: Macvlan, want: Macvlan) -> bool:
        """The mode can be changed, the lower device can't."""
        return have.lower == want.lower

    def change(self, name: str, details: Macvlan) -> Request:
        """`ip link set NAME type macvlan mode MODE`."""
        return change_kind_data(name, "macvlan", _data(details))

    def words(self, details: Macvlan) -> Sequence[str]:
        """`mode MODE`."""
        return ("mode", details.mode)

    def line(self, name: str, details: Macvlan) -> str:
        """`ip link add link LOWER name NAME type macvlan mode MODE`."""
        return f"ip link add link {details.lower} name {name} type macvlan mode {details.mode}"

    def also_makes(self, details: Macvlan) -> Sequence[str]:
        """Nothing."""
        del details
        return ()

    def takes_common(self) -> bool:
        """The kernel takes MTU and MAC at once."""
        return True


def _data(details: Macvlan) -> bytes:
    modes = {name: number for number, name in MODES.items()}
    return attr_u32(IFLA_MACVLAN_MODE, modes[details.mode])
