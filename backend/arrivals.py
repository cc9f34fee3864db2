# SPDX-License-Identifier: Apache-2.0
"""How peers' packets arrive at a host: what the filter of its nftables table lets in.

Each backend names its tunnel ports, and what of a packet to one is compared with the leases. A
datagram to a tunnel port is otherwise taken from whoever sends it, since VXLAN, GRE, Geneve and the
udp backend authenticate nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Check(Enum):
    """What is compared before a packet to a tunnel port is let in."""

    NONE = 0
    """Nothing here: the tunnel authenticates its peers, or checks them itself."""
    MEMBER = 1
    """The sender's address is a PublicIP of a peer's lease."""
    VXLAN = 2
    """That, and the source of the inner packet is in the subnet of the same lease, or is the
    PublicIP."""


class TunnelPort(NamedTuple):
    """Where tunnel packets are received."""

    protocol: str
    """`udp` or `gre`."""
    port: int = 0
    """UDP destination port; 0 for GRE."""
    check: Check = Check.NONE
    vni: int = 0
    """VXLAN network identifier, for `Check.VXLAN`: other networks may share the port."""


class Arrivals(NamedTuple):
    """All ways of one backend."""

    ports: tuple[TunnelPort, ...] = ()
    plain: bool = False
    """Whether pods' packets may also arrive on the underlay device without a tunnel."""
