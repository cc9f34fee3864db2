# SPDX-License-Identifier: Apache-2.0
"""One policy as chains of nftables: whatever one of its rules allows is accepted.

    ingress_4be1..      of the policy: each of its rules in turn
      th dport 80 jump ingress_4be1.._0     where a rule has ports and peers
    ingress_4be1.._0    the peers of the policy's first rule
      ip saddr @pods4_91c2.. accept         pods by labels
      ip saddr 192.0.2.0/24 jump block_..   a network less parts of it

A chain that comes to its end allows nothing: the next policy of the pod is asked, and after the
last one the packet is refused (`policy.table`). So one rule's peers are tried once for each of its
ports that fit, not listed for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hostnet.nft import expressions
from hostnet.nft.expressions import Expressions, NftRule, rule, verdict
from policy.model import Block, PodGroup, Policy, Ports, Rule
from policy.names import digest, group_set, named_set, policy_chain

MAX_RULES = 4000
"""Of one policy for one direction; what has more allows nothing, and that is reported."""
FAMILIES = (4, 6)
ACCEPT = verdict("accept")
SIDE = {"ingress": "saddr", "egress": "daddr"}
"""Where the peer is in a packet."""


class PolicyChains(NamedTuple):
    """One policy for one direction."""

    name: str
    """Of the chain to begin with."""
    chains: dict[str, tuple[NftRule, ...]]
    groups: frozenset[PodGroup] = frozenset()
    named: frozenset[tuple[str, str]] = frozenset()
    """Protocol and name of ports that pods call so."""
    problem: str = ""


def policy_chains(policy: Policy, direction: str) -> PolicyChains:
    """The chains for a direction that the policy speaks of. Pure."""
    name = policy_chain(direction, policy.key)
    rules = policy.rules(direction) or ()
    size = sum(_size(one) for one in rules)
    if size > MAX_RULES:
        problem = (
            f"network policy {policy.key} is too large ({size} rules, {MAX_RULES} at most): it "
            f"allows no {direction}; split it into several"
        )
        return PolicyChains(name, {name: ()}, problem=problem)
    chains: dict[str, tuple[NftRule, ...]] = {}
    begin: list[NftRule] = []
    for number, one in enumerate(rules):
        begin += _rule(one, f"{name}_{number}", SIDE[direction], chains)
    chains[name] = tuple(begin)
    groups = {peer for one in rules for peer in one.peers or () if isinstance(peer, PodGroup)}
    named = {(p.protocol, p.name) for one in rules for p in one.ports or () if p.name}
    return PolicyChains(name, chains, frozenset(groups), frozenset(named))


def _size(one: Rule) -> int:
    peers = sum(1 + len(p.excepts) if isinstance(p, Block) else 2 for p in one.peers or ())
    return peers + 2 * len(one.ports or ()) + 1


def _rule(
    one: Rule, peers_chain: str, side: str, chains: dict[str, tuple[NftRule, ...]]
) -> Iterator[NftRule]:
    """What stands in the policy's chain for a rule; chains that it needs are added."""
    peers = None if one.peers is None else list(_peers(one.peers, side, chains))
    ports = None if one.ports is None else list(_ports(one.ports))
    if peers is None and ports is None:
        yield rule(ACCEPT)
    elif peers is None:
        yield from (rule(*match, ACCEPT) for match in ports or ())
    elif ports is None:
        yield from peers
    elif peers and ports:
        chains[peers_chain] = tuple(peers)
        yield from (rule(*match, verdict("jump", peers_chain)) for match in ports)


def _ports(ports: tuple[Ports, ...]) -> Iterator[list[Expressions]]:
    for one in ports:
        if one.name:
            for family in FAMILIES:
                where = named_set(one.protocol, one.name, family).name
                port = expressions.address_port_in_set(family, where)
                yield [expressions.family_is(family), expressions.protocol_is(one.protocol), port]
        elif one.all:
            yield [expressions.protocol_is(one.protocol)]
        else:
            port = expressions.ports_between(one.first, one.last)
            yield [expressions.protocol_is(one.protocol), port]


def _peers(
    peers: tuple[PodGroup | Block, ...], side: str, chains: dict[str, tuple[NftRule, ...]]
) -> Iterator[NftRule]:
    for one in peers:
        if isinstance(one, Block):
            family = expressions.family_is(one.network.version)
            found = expressions.address_in_network(one.network, side)
            yield rule(family, found, _block(one, side, chains))
        else:
            for version in FAMILIES:
                name = group_set(one, version).name
                found = expressions.address_in_set(version, side, name)
                yield rule(expressions.family_is(version), found, ACCEPT)


def _block(one: Block, side: str, chains: dict[str, tuple[NftRule, ...]]) -> Expressions:
    """What happens to an address inside of a block."""
    if not one.excepts:
        return ACCEPT
    name = f"block_{digest(side, str(one.network), *map(str, one.excepts))}"
    family = expressions.family_is(one.network.version)
    outside = [
        rule(family, expressions.address_in_network(part, side), verdict("return"))
        for part in one.excepts
        if part.version == one.network.version
    ]
    chains[name] = (*outside, rule(ACCEPT))
    return verdict("jump", name)
