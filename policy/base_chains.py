# SPDX-License-Identifier: Apache-2.0
"""The chains that every forwarded packet passes: one for each direction of the policies.

    egress     by the packet's source: may this pod send it?
    ingress    by its destination: may this pod receive it?

Replies pass, and errors about connections that are tracked. What the one who began a connection
sends is looked at packet by packet: a connection that is no longer allowed ends there, and no entry
of connection tracking has to be found and deleted, which would not hold for what is under way.

What a pod's host itself sends and receives is not forwarded, and so not asked about: its kubelet
always reaches the pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from hostnet.nft import expressions
from hostnet.nft.expressions import NftRule, rule, verdict
from policy.model import IPNetwork
from policy.names import self_set

DIRECTIONS = ("egress", "ingress")
PRIORITIES = {"egress": 10, "ingress": 11}
"""After the filters of others (0), which may refuse as well; a verdict `accept` ends one chain."""
SIDE = {"egress": "saddr", "ingress": "daddr"}
"""Where the pod that is asked about is in a packet."""
COUNTERS = {one: f"refused_{one}" for one in DIRECTIONS}
LINK_LOCAL = IPv6Network("fe80::/10")
NEIGHBOUR_DISCOVERY = ((130, 136), (143, 143))
"""Types of ICMPv6: listeners of multicast, routers, neighbours (RFC 4861, RFC 3810)."""


class PodNetwork(NamedTuple):
    """Where pods of this host are."""

    subnets: tuple[IPNetwork, ...] = ()
    """Addresses in them that no verdict is known of are refused."""
    bridges: tuple[str, ...] = ("kbr0",)
    """By which they reach each other."""
    switch: str = ""
    """A switch's device that pods are ports of. It has asked about what they send, and knows which
    of it are replies: of a connection that came through a tunnel the host sees one direction."""


def map_name(direction: str, family: int) -> str:
    """The map of pods' addresses to what happens to a packet."""
    return f"{direction}{family}"


def base_chains(network: PodNetwork, *, isolated: bool) -> dict[str, tuple[NftRule, ...]]:
    """The chains on the hook, and those of what is refused.

    `isolated`: whether a policy selects some pod here. Then pods on one bridge don't send to each
    other by link-local addresses, which all of them have, by broadcast or by multicast: such a
    packet doesn't say which pods receive it.
    """
    chains = {
        direction: tuple(_chain(direction, network, isolated=isolated)) for direction in DIRECTIONS
    }
    for direction, counter in COUNTERS.items():
        refuse = rule(expressions.count_in(counter), verdict("drop"))
        chains[COUNTERS[direction]] = (refuse,)
    return chains


def _chain(direction: str, network: PodNetwork, *, isolated: bool) -> Iterator[NftRule]:
    accept, refuse = verdict("accept"), verdict("goto", COUNTERS[direction])
    yield rule(expressions.state_is("related"), accept)
    yield rule(expressions.state_is("established"), expressions.is_reply(), accept)
    if network.switch and direction == "egress":
        yield rule(expressions.device_is("iif", network.switch), accept)
    icmpv6 = expressions.family_is(6), expressions.protocol_is("ipv6-icmp")
    for first, last in NEIGHBOUR_DISCOVERY:
        yield rule(*icmpv6, expressions.icmpv6_between(first, last), accept)
    for family in (4, 6):
        same = expressions.addresses_in_set(family, self_set(family).name)
        yield rule(expressions.family_is(family), same, accept)
    if isolated:
        yield from _switched(network.bridges, direction, refuse)
    for family in (4, 6):
        found = expressions.by_map(family, SIDE[direction], map_name(direction, family))
        yield rule(expressions.family_is(family), found)
    for subnet in network.subnets:
        inside = expressions.address_in_network(subnet, SIDE[direction])
        yield rule(expressions.family_is(subnet.version), inside, refuse)


def _switched(
    bridges: Iterable[str], direction: str, refuse: expressions.Expressions
) -> Iterator[NftRule]:
    """What pods on one bridge send to each other without a word about who receives it."""
    for name in bridges:
        between = expressions.device_is("iif", name), expressions.device_is("oif", name)
        local = expressions.address_in_network(LINK_LOCAL, SIDE[direction])
        yield rule(*between, expressions.family_is(6), local, refuse)
        if direction == "ingress":
            for kind in ("broadcast", "multicast"):
                yield rule(*between, expressions.destination_is(kind), refuse)
