# SPDX-License-Identifier: Apache-2.0
"""A network device as the kernel describes it (rtnetlink(7), linux/if_link.h)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

IFF_UP, IFF_PROMISC, IFF_LOWER_UP = 0x1, 0x100, 0x10000
IFLA_VXLAN_LOCAL6 = 17
IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_DEFAULT_PVID = 5, 7, 39
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33  # HAIRPIN is what the kernel calls MODE


@dataclass(frozen=True, slots=True)
class ActualLink:
    """A device as the kernel describes it."""

    name: str
    index: int
    kind: str = ""
    flags: int = 0
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    master: int = 0
    """Index of the bridge (or other master), 0 for none."""
    parent: int = 0
    """IFLA_LINK: index of a veth's peer, in `peer_netnsid`'s namespace when that is set."""
    peer_netnsid: int | None = None
    addrgenmode: str | None = None
    data: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)
    port: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)
    """Bridge port settings: IFLA_BRPORT_* -> bytes."""

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def hairpin(self) -> bool:
        """A bridge port that sends frames back where they came from."""
        return self.port.get(IFLA_BRPORT_MODE) == b"\1"

    @property
    def isolated(self) -> bool:
        """A bridge port that reaches no other isolated port."""
        return self.port.get(IFLA_BRPORT_ISOLATED) == b"\1"

    @property
    def over_ipv6(self) -> bool:
        """A VXLAN device whose underlay is IPv6."""
        return self.kind == "vxlan" and IFLA_VXLAN_LOCAL6 in self.data

    def port_flag(self, kind: int) -> int | None:
        """A setting of one byte of a bridge port (IFLA_BRPORT_*); None where there is none."""
        value = self.port.get(kind)
        return value[0] if value else None

    @property
    def has_stp(self) -> bool:
        """A bridge whose ports' states are the spanning tree protocol's."""
        return any(self.data.get(IFLA_BR_STP_STATE, b""))

    @property
    def default_pvid(self) -> int:
        """The VLAN that a bridge puts new ports into; 0: none."""
        return int.from_bytes(self.data.get(IFLA_BR_VLAN_DEFAULT_PVID, b""), sys.byteorder)

    @property
    def vlan_filtering(self) -> bool:
        """A bridge that tells VLANs apart."""
        return self.kind == "bridge" and self.data.get(IFLA_BR_VLAN_FILTERING) == b"\1"
