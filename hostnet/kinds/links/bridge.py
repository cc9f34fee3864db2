# SPDX-License-Identifier: Apache-2.0
"""Linux bridges (linux/if_link.h: IFLA_BR_*)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostnet.kinds.actual_link import IFLA_BR_VLAN_FILTERING, ActualLink
from hostnet.kinds.link_messages import add_link, change_kind_data
from hostnet.netlink.attributes import attr_u8
from hostnet.netlink.socket import Request


@dataclass(frozen=True, slots=True)
class Bridge:
    """The attributes of a Linux bridge that we set."""

    vlan_filtering: bool = False


def bridge_data(bridge: Bridge) -> bytes:
    """IFLA_INFO_DATA of a bridge: what differs from a new one.

    A kernel without VLAN filtering refuses the attribute, even to switch it off.
    """
    return attr_u8(IFLA_BR_VLAN_FILTERING, 1) if bridge.vlan_filtering else b""


def vlan_filtering_data(bridge: Bridge) -> bytes:
    """IFLA_INFO_DATA that turns VLAN filtering on or off."""
    return attr_u8(IFLA_BR_VLAN_FILTERING, bridge.vlan_filtering)


class BridgeKind:
    """Fits `hostnet.kinds.links.device_kind.DeviceKind`."""

    name = "bridge"
    details = Bridge
    adopts_unmarked = False

    def add(self, name: str, common: bytes, details: Bridge, index: Mapping[str, int]) -> Request:
        """Make it without ports."""
        del name, index
        return add_link("bridge", common, bridge_data(details))

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Bridge:
        """The settings that we set."""
        del names
        return Bridge(found.vlan_filtering)

    def can_become(self, have: Bridge, want: Bridge) -> bool:
        """Always: all of them can be changed."""
        del have, want
        return True

    def change(self, name: str, details: Bridge) -> Request:
        """`ip link set NAME type bridge vlan_filtering ...`."""
        return change_kind_data(name, "bridge", vlan_filtering_data(details))

    def words(self, details: Bridge) -> Sequence[str]:
        """What differs from a new bridge."""
        return ("vlan_filtering", "1") if details.vlan_filtering else ()

    def line(self, name: str, details: Bridge) -> None:
        """`ip link add`."""

    def also_makes(self, details: Bridge) -> Sequence[str]:
        """Nothing."""
        del details
        return ()

    def takes_common(self) -> bool:
        """The kernel takes them at once."""
        return True
