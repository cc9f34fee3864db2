# SPDX-License-Identifier: Apache-2.0
"""Policies without chains and sets, for pods that a switch attaches (`backend.isolation`).

Groups of pods are their addresses here, networks are split around the parts that are excepted, and
a port's name is its numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from backend.isolation import EGRESS, INGRESS, Allowed, Isolation, PortRange
from policy.model import Block, IPAddress, IPNetwork, PodGroup, Policy, Rule
from policy.peers import PeerGroups

NamedPorts = Mapping[tuple[str, str], Collection[tuple[IPAddress, int]]]
"""By protocol and name: whose port it is, and its number."""


@dataclass(frozen=True, slots=True)
class SelectedPods:
    """What isolation follows from."""

    by_policy: Mapping[tuple[str, str], Collection[IPAddress]]
    """By policy and direction, the addresses of this host's pods that it selects."""
    policies: Mapping[str, Policy]
    peers: PeerGroups
    ports: NamedPorts
    refused: Collection[str]
    """Policies that allow nothing."""


def isolation(selected: SelectedPods, closed: Iterable[IPAddress]) -> Isolation:
    """What all policies mean; `closed` are pods that nothing is known of. Pure."""
    isolated = {EGRESS: {str(one) for one in closed}}
    isolated[INGRESS] = set(isolated[EGRESS])
    allowed: list[Allowed] = []
    for (key, direction), addresses in sorted(selected.by_policy.items()):
        isolated[direction].update(map(str, addresses))
        if key not in selected.refused:
            rules = selected.policies[key].rules(direction) or ()
            for number, rule in enumerate(rules):
                name = f"{direction} {key} {number}"
                allowed += _allowed(name, rule, direction, addresses, selected)
    return Isolation(frozenset(isolated[EGRESS]), frozenset(isolated[INGRESS]), tuple(allowed))


def _allowed(
    name: str,
    rule: Rule,
    direction: str,
    pods: Collection[IPAddress],
    selected: SelectedPods,
) -> Iterator[Allowed]:
    peers = None if rule.peers is None else sorted(_peers(rule, selected.peers))
    plain = [
        PortRange(one.protocol, one.first, one.last) for one in rule.ports or () if not one.name
    ]
    subjects = tuple(sorted(map(str, pods)))
    if rule.ports is None or plain:
        ports = None if rule.ports is None else tuple(plain)
        yield Allowed(name, direction, subjects, None if peers is None else tuple(peers), ports)
    for one in rule.ports or ():
        for number, owners in _owners(selected.ports.get((one.protocol, one.name), ())).items():
            ports = (PortRange(one.protocol, number, number),)
            named = f"{name} {one.protocol} {one.name} {number}"
            if direction == INGRESS:
                whose = tuple(sorted(str(pod) for pod in pods if pod in owners))
                to = None if peers is None else tuple(peers)
                if whose:
                    yield Allowed(named, direction, whose, to, ports)
            else:
                to = tuple(sorted(map(str, _among(owners, rule, selected.peers))))
                yield Allowed(named, direction, subjects, to, ports)


def _owners(ports: Iterable[tuple[IPAddress, int]]) -> dict[int, set[IPAddress]]:
    found: dict[int, set[IPAddress]] = defaultdict(set)
    for address, number in ports:
        found[number].add(address)
    return dict(sorted(found.items()))


def _among(owners: set[IPAddress], rule: Rule, peers: PeerGroups) -> set[IPAddress]:
    """Those of some addresses that are a rule's peers."""
    if rule.peers is None:
        return owners
    found: set[IPAddress] = set()
    for one in rule.peers:
        if isinstance(one, Block):
            networks = _split(one)
            found |= {a for a in owners if any(a in network for network in networks)}
        else:
            found |= owners & peers.groups[one].counts.keys()
    return found


def _peers(rule: Rule, groups: PeerGroups) -> set[str]:
    found: set[str] = set()
    for one in rule.peers or ():
        if isinstance(one, PodGroup):
            found.update(map(str, groups.groups[one].counts))
        else:
            found.update(map(str, _split(one)))
    return found


def _split(block: Block) -> list[IPNetwork]:
    """A network less what is excepted of it."""
    left: list[IPNetwork] = [block.network]
    for part in block.excepts:
        rest: list[IPNetwork] = []
        for one in left:
            if one.version != part.version or not one.overlaps(part):
                rest.append(one)
            elif part.prefixlen > one.prefixlen:
                rest += one.address_exclude(part)  # type: ignore[arg-type]
        left = rest
    return left
