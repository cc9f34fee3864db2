# SPDX-License-Identifier: Apache-2.0
"""Which of the kernel's messages on nftables tell of chains that forwarded packets pass.

iptables-nft's tables are among these; the older ip_tables tells nothing, so it has to be looked at
now and then (`hostnet.iptables.programs.legacy`).
"""

from __future__ import annotations

from hostnet.nft.forward_chains import IPTABLES
from hostnet.nft.messages import FAMILIES
from hostnet.ownership import NFT_TABLE

# linux/netfilter/nf_tables.h: NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN; NEWRULE, DELRULE
OF_CHAINS, OF_RULES = frozenset({0, 2, 3, 5}), frozenset({6, 8})
FILTERS = frozenset((FAMILIES[family], table) for family, table in IPTABLES)


def concerns_forwarding(kind: int, family: int, table: str) -> bool:
    """Whether a chain of the forward hook may have changed. Fits `hostnet.nft.watch.Concerns`."""
    if kind in OF_CHAINS:
        return not table.startswith(NFT_TABLE)
    return kind in OF_RULES and (family, table) in FILTERS
