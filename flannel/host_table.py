# SPDX-License-Identifier: Apache-2.0
"""The nftables table of a host: what is filtered, and what gets the host's address.

One table that is wholly ours, `inet flatmesh`; its text is replaced whole, its sets stay. In the
forward hook everything from and to the cluster's network is accepted but for what
`flannel.host_filter` drops; `flannel.masquerade` has the rules of the postrouting hook.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from flannel import masquerade
from flannel.host_filter import HostFilter
from hostnet.kinds.nft_table import NftTable
from hostnet.ownership import NFT_TABLE
from ipam.lease import Lease
from ipam.network import NetworkConfig

IPNetwork = IPv4Network | IPv6Network


def families(config: NetworkConfig, own: Lease) -> list[tuple[IPNetwork, IPNetwork]]:
    """The cluster's network and this host's subnet, for each family that it has a subnet of."""
    pairs: list[tuple[IPNetwork, IPNetwork]] = []
    if config.network is not None and own.subnet is not None:
        pairs.append((config.network, own.subnet))
    if config.ipv6_network is not None and own.ipv6_subnet is not None:
        pairs.append((config.ipv6_network, own.ipv6_subnet))
    return pairs


def table(
    config: NetworkConfig, own: Lease, host_filter: HostFilter, *, masquerades: bool
) -> NftTable:
    """Write the table for this host's lease; with `masquerades` the postrouting rules too."""
    body = host_filter.counters()
    for name, rules in host_filter.chains().items():
        body += _chain(name, rules)
    for name, rules in (
        ("input", host_filter.input()),
        ("forward", host_filter.forward()),
    ):
        body += _chain(name, [_hook("filter", name, "filter"), *rules])
    if masquerades:
        rules = masquerade.rules(families(config, own))
        body += _chain("postrouting", [_hook("nat", "postrouting", "srcnat"), *rules])
    return NftTable("inet", NFT_TABLE, body)


def _hook(kind: str, name: str, priority: str) -> str:
    return f"type {kind} hook {name} priority {priority}; policy accept;"


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"chain {name} {{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"
