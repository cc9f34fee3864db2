# SPDX-License-Identifier: Apache-2.0
"""VXLAN devices (linux/if_link.h: IFLA_VXLAN_*)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_link
from hostnet.netlink.attributes import attr, attr_u8, attr_u32, pack_address, u32, unpack_address
from hostnet.netlink.socket import Request

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 15, 17
OTHER_SETTINGS = {
    2: "group",
    5: "ttl",
    6: "tos",
    16: "group6",
    26: "label",
    28: "inherit",
    29: "df",
}
"""IFLA_VXLAN_*: what `ip link set` can change, and we leave at 0."""


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The attributes of a VXLAN device. Any change needs the device made anew."""

    vni: int
    port: int
    """UDP destination port on the underlay."""
    local: str
    """Underlay source address; its family is the underlay's family."""
    underlay_link: str | None = None
    learning: bool = False
    others: tuple[str, ...] = ()
    """Names of settings that are not at 0, as ours are: a TTL of 1 ends at the first router."""


def vxlan_data(vxlan: Vxlan, underlay_index: int) -> bytes:
    """IFLA_INFO_DATA of a VXLAN device; `underlay_index` 0 leaves the device to routing."""
    family, local = pack_address(vxlan.local)
    kind = IFLA_VXLAN_LOCAL if family == socket.AF_INET else IFLA_VXLAN_LOCAL6
    data = attr_u32(IFLA_VXLAN_ID, vxlan.vni) + attr(kind, local)
    if underlay_index:
        data += attr_u32(IFLA_VXLAN_LINK, underlay_index)
    data += attr_u8(IFLA_VXLAN_LEARNING, vxlan.learning)
    return data + attr(IFLA_VXLAN_PORT, struct.pack(">H", vxlan.port))


class VxlanKind:
    """Fits `hostnet.kinds.links.device_kind.DeviceKind`."""

    name = "vxlan"
    details = Vxlan
    adopts_unmarked = True

    def add(self, name: str, common: bytes, details: Vxlan, index: Mapping[str, int]) -> Request:
        """Make it on its underlay device."""
        del name
        underlay = details.underlay_link
        if underlay is not None and underlay not in index:
            raise LookupError(f"no device {underlay}")
        number = index[underlay] if underlay is not None else 0
        return add_link("vxlan", common, vxlan_data(details, number))

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Vxlan:
        """All of its settings."""
        data = found.data
        local = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6)
        port = data.get(IFLA_VXLAN_PORT, b"\0\0")
        return Vxlan(
            vni=u32(data.get(IFLA_VXLAN_ID)),
            port=int.from_bytes(port[:2], "big"),
            local=unpack_address(local) if local else "",
            underlay_link=names.get(u32(data.get(IFLA_VXLAN_LINK))),
            learning=data.get(IFLA_VXLAN_LEARNING, b"\0") != b"\0",
            others=tuple(name for kind, name in OTHER_SETTINGS.items() if any(data.get(kind, b""))),
        )

    def can_become(self, have: Vxlan, want: Vxlan) -> bool:
        """Only what it is already; any underlay device will do where none is wanted."""
        underlay = want.underlay_link or have.underlay_link
        return replace(want, underlay_link=underlay) == have

    def change(self, name: str, details: Vxlan) -> None:
        """Nothing can be changed."""

    def words(self, details: Vxlan) -> Sequence[str]:
        """`id VNI dev UNDERLAY local ADDRESS dstport PORT nolearning`."""
        words = ["id", str(details.vni)]
        words += ["dev", details.underlay_link] if details.underlay_link else []
        words += ["local", details.local, "dstport", str(details.port)]
        return [*words, "learning" if details.learning else "nolearning"]

    def line(self, name: str, details: Vxlan) -> None:
        """`ip link add`."""

    def also_makes(self, details: Vxlan) -> Sequence[str]:
        """Nothing."""
        del details
        return ()

    def takes_common(self) -> bool:
        """The kernel takes them at once."""
        return True
