# SPDX-License-Identifier: Apache-2.0
"""Pods, policies, and what a table of chains does to a packet, worked out by its digests' texts."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from backend.isolation import Allowed, Isolation
from hostnet.nft.chain_table import ChainTable
from hostnet.nft.datatypes import pack
from hostnet.nft.expressions import NftRule
from policy.model import (
    Block,
    IPAddress,
    Labels,
    Namespace,
    Pod,
    PodGroup,
    Policy,
    PolicyChanges,
    Selector,
)

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def pod(key: str, address: str, node: str = "here", **labels: str) -> Pod:
    """A pod with a port `http`, 8080."""
    namespace, _, name = key.partition("/")
    addresses = tuple(ip_address(one) for one in address.split())
    return Pod(namespace, name, labels, addresses, node, (("http", "tcp", 8080),))


def labels(**values: str) -> Selector:
    return Selector(tuple(sorted(values.items())))


def group(namespace: str = "", namespaces: Selector | None = None, **values: str) -> PodGroup:
    if namespaces is None:
        return PodGroup(labels(**values), namespace)
    return PodGroup(labels(**values), "", namespaces)


def block(network: str, *excepts: str) -> Block:
    return Block(ip_network(network), tuple(ip_network(one) for one in excepts))


def known(
    pods: Iterable[Pod], policies: Iterable[Policy] = (), **namespaces: Labels
) -> PolicyChanges:
    return PolicyChanges(
        {one.key: one for one in policies},
        {one.key: one for one in pods},
        {name: Namespace(name, found) for name, found in namespaces.items()},
    )


class Packet(NamedTuple):
    """The first one of a connection."""

    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 80

    @property
    def family(self) -> int:
        return self.address("daddr").version

    def address(self, side: str) -> IPAddress:
        return ip_address(self.source if side == "saddr" else self.destination)


def passes(table: ChainTable, packet: Packet) -> bool:
    """Whether both base chains let a packet through."""
    return all(_walk(table, table.chains[one], packet) != "drop" for one in ("egress", "ingress"))


def passes_switch(isolation: Isolation, packet: Packet) -> bool:
    """The same for pods that a switch attaches."""
    if packet.source == packet.destination:
        return True
    ends = {
        "egress": (packet.source, packet.destination),
        "ingress": (packet.destination, packet.source),
    }
    return all(
        pod not in isolation.isolated(direction)
        or any(
            _is_allowed(one, pod, peer, packet)
            for one in isolation.allowed
            if one.direction == direction
        )
        for direction, (pod, peer) in ends.items()
    )


def _is_allowed(one: Allowed, pod: str, peer: str, packet: Packet) -> bool:
    by_port = one.ports is None or any(
        p.protocol == packet.protocol and p.first <= packet.port <= p.last for p in one.ports
    )
    networks = None if one.peers is None else [ip_network(text) for text in one.peers]
    by_peer = networks is None or any(ip_address(peer) in network for network in networks)
    return pod in one.pods and by_port and by_peer


def _walk(table: ChainTable, rules: tuple[NftRule, ...], packet: Packet) -> str:
    """What a chain says: accept, drop, or nothing."""
    for rule in rules:
        said = _verdict(table, rule.text.split(), packet)
        if said in ("accept", "drop"):
            return said
        if said == "return":
            return ""
        code, _, chain = said.partition(" ")
        if code in ("jump", "goto"):
            found = _walk(table, table.chains[chain], packet)
            if found or code == "goto":
                return found
    return ""


def _verdict(table: ChainTable, words: list[str], packet: Packet) -> str:
    """The verdict of a rule that matches; empty for one that does not."""
    while words:
        if words[:2] == ["meta", "nfproto"]:
            holds, words = words[2] == f"ipv{packet.family}", words[3:]
        elif words[:2] == ["meta", "l4proto"]:
            holds, words = words[2] == packet.protocol, words[3:]
        elif words[:2] == ["th", "dport"]:
            low, _, high = words[2].partition("-")
            holds, words = int(low) <= packet.port <= int(high or low), words[3:]
        elif words[0] in ("ip", "ip6") and words[2] == "vmap":
            said = table.maps[words[3][1:]].verdicts.get(packet.address(words[1]).packed)
            return " ".join(said).strip() if said is not None else ""
        elif words[0] in ("ip", "ip6") and words[2] == ".":
            end = next(n for n, word in enumerate(words) if word.startswith("@"))
            holds, words = (
                _in_concatenation(table, words[:end], words[end], packet),
                words[end + 1 :],
            )
        elif words[0] in ("ip", "ip6"):
            address = packet.address(words[1])
            if words[2].startswith("@"):
                holds = address.packed in _elements(table, words[2])
            else:
                holds = address in ip_network(words[2])
            words = words[3:]
        elif words[0] in ("accept", "drop", "return", "jump", "goto"):
            return " ".join(words)
        elif words[:2] == ["counter", "name"]:
            holds, words = True, words[3:]
        else:  # of connection tracking, devices, neighbour discovery: not this packet's
            return ""
        if not holds:
            return ""
    return ""


def _in_concatenation(table: ChainTable, fields: list[str], name: str, packet: Packet) -> bool:
    if "saddr" in fields:
        key = packet.address("saddr").packed + packet.address("daddr").packed
    else:
        types = (f"ipv{packet.family}_addr", "inet_proto", "inet_service")
        number = bytes((PROTOCOLS[packet.protocol],))
        port = packet.port.to_bytes(2, "big")
        key = pack(types, packet.address("daddr").packed, number, port)
    return key in _elements(table, name)


def _elements(table: ChainTable, name: str) -> frozenset[bytes]:
    return next(found for one, found in table.sets.items() if f"@{one.name}" == name)
