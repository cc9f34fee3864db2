# SPDX-License-Identifier: Apache-2.0
"""Which nftables chains drop the packets that this host forwards for pods.

iptables' own tables are left out (`hostnet.iptables`), and so are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from hostnet.netns import NetnsRef
from hostnet.nft import tables
from hostnet.ownership import NFT_TABLE

IPTABLES = frozenset({("ip", "filter"), ("ip6", "filter")})
"""Family and name of the tables in which iptables-nft and ip6tables-nft have their `filter`."""
FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
"""The families of tables whose forward hook pods' packets pass, with the IP versions in them."""
_TABLE = re.compile(r"^table (\S+) (\S+) \{", re.MULTILINE)
_CHAIN = re.compile(r"^\tchain (\S+) \{\n\t\ttype filter hook forward .*policy drop;", re.MULTILINE)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ForwardChain:
    """A base chain of the forward hook whose policy is to drop."""

    family: str
    table: str
    name: str

    def concerns(self, network: Network) -> bool:
        """Whether it sees packets of a network's IP version."""
        return network.version in FAMILIES[self.family]


def parse(listing: str) -> list[ForwardChain]:
    """Find them in what `nft list chains` prints."""
    # text before the first table, then family, name and content of each
    parts = _TABLE.split(listing)[1:]
    return [
        ForwardChain(family, table, chain)
        for family, table, content in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
        for chain in _CHAIN.findall(content)
        if family in FAMILIES
        and (family, table) not in IPTABLES
        and not table.startswith(NFT_TABLE)
    ]


def refused(networks: Sequence[Network], netns: NetnsRef | None = None) -> list[str]:
    """A line for each chain that drops, and has no rule that accepts one of our networks.

    Only rules that name the network are looked for; whether they accept all of its packets is
    the administrator's matter. Raises NftError.
    """
    lines = []
    for chain in parse(tables.run("list chains\n", netns)):
        where = f"{chain.family} {chain.table}"
        body = tables.run(f"list table {where}\n", netns)
        missing = [str(n) for n in networks if chain.concerns(n) and not _accepts(body, n)]
        if missing:
            lines.append(
                f"nftables chain {where} {chain.name} drops what this host forwards: accept "
                f"{' and '.join(missing)} there (nft insert rule {where} {chain.name} "
                f"{'ip' if ':' not in missing[0] else 'ip6'} saddr {missing[0]} accept, and daddr)"
            )
    return lines


def _accepts(body: str, network: Network) -> bool:
    return any(str(network) in line and "accept" in line for line in body.splitlines())
