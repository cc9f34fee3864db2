# SPDX-License-Identifier: Apache-2.0
"""The kinds of kernel object there are, in the order in which a plan makes them.

Each thing comes after what it refers to; a plan deletes in the reverse order. A new kind is a
module in this folder and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hostnet.kinds.address import AddressKind
from hostnet.kinds.fdb import FdbKind
from hostnet.kinds.gateway_bridge import GatewayBridgeKind
from hostnet.kinds.kind import Kind
from hostnet.kinds.link import LinkKind
from hostnet.kinds.neighbour import NeighbourKind
from hostnet.kinds.nft_element import NftElementKind
from hostnet.kinds.nft_set import NftSetKind
from hostnet.kinds.nft_table import NftTableKind
from hostnet.kinds.offload import TxChecksumKind
from hostnet.kinds.route import RouteKind
from hostnet.kinds.rule import RuleKind
from hostnet.kinds.sysctl import SysctlKind

KINDS: list[Callable[[], Kind]] = [
    LinkKind,
    SysctlKind,
    AddressKind,
    NftSetKind,
    NftElementKind,
    NftTableKind,  # after the elements: rules that find the sets of allowed sources empty drop all
    NeighbourKind,
    FdbKind,
    RouteKind,
    RuleKind,
    TxChecksumKind,
    GatewayBridgeKind,
]


def make_kinds() -> Sequence[Kind]:
    """One of each, for one `Kernel`."""
    return [make() for make in KINDS]
