# SPDX-License-Identifier: Apache-2.0
"""The nftables table of the load balancer: a rule for each map, and hooks for all services.

    prerouting     pods' and strangers' packets: the endpoint's address in place of the virtual one,
                   or of a host's address with a published port
    output         the same for what the host itself sends
    postrouting    the host's address as source where the answer would not find its way back
    refuse         what is sent to a virtual address and was not translated: nobody serves it

Only a connection's first packet is looked up; the others are tracked.

Sources are kept but for three: a pod that is led back to itself; what the host itself sends, which
gets the address that it would have had without a service; and what comes from outside for a
published port whose endpoint is on another host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from hostnet.kinds.nft_table import NftTable
from hostnet.nft.sets import NftSet
from hostnet.ownership import MESH_DEVICE, SERVICES_TABLE
from services.balancer import LIMITED, SlotMap, hairpin_set, slot_map, sources_set
from services.model import IPNetwork
from services.slots import MAX_SLOTS, STEP

SEED = "0x666c6174"
"""Of all hashes: hosts must choose alike. nft(8) takes a random one where none is given."""
BRIDGE = "kbr0"
_WITH_PORTS = "meta l4proto != { tcp, udp, sctp } return"
_LOOPBACK = ("ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return")
_ANY = {4: "0.0.0.0", 6: "::"}
_IP = {4: "ip", 6: "ip6"}
_CHOICE = {
    "hash": "jhash {ip} saddr . {protocol} sport mod {slots} seed {seed}",
    "client": "jhash {ip} saddr mod {slots} seed {seed}",
    "random": "numgen random mod {slots}",
}


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the table's text is made from."""

    networks: Sequence[IPNetwork]
    """Of virtual addresses."""
    pods: Sequence[tuple[IPNetwork, IPNetwork]]
    """The cluster's network and this host's subnet, for each family."""
    maps: Collection[SlotMap]
    lengths: Collection[tuple[int, int]] = ()
    """(family, bits) of sources that may use published ports."""
    bridged: bool = True
    """Whether packets between pods on one bridge are tracked."""

    def sets(self) -> frozenset[NftSet]:
        """The maps and sets that the rules name."""
        found = {slot_map(one) for one in self.maps} | {hairpin_set(f) for f in (4, 6)}
        return frozenset(found | {LIMITED} | {sources_set(*one) for one in self.lengths})

    def table(self) -> NftTable:
        """The table."""
        service = [_WITH_PORTS, "jump virtual"]
        local = "fib daddr type local jump published"
        came = f'iifname "{MESH_DEVICE}" jump published'
        chains = {
            "virtual": [_lookup(one) for one in self._of("virtual")],
            "limited": [*(_source(*one) for one in sorted(self.lengths)), "accept"],
            "published": [
                "meta l4proto . th dport @limited jump limited",
                *(_lookup(one) for one in self._of("published")),
            ],
            "refuse": ["meta l4proto tcp reject with tcp reset", "reject"],
            "prerouting": [_hook("nat", "prerouting", "dstnat - 5"), *service, came, local],
            "output": [_hook("nat", "output", "-105"), *service, *_LOOPBACK, local],
            "postrouting": [_hook("nat", "postrouting", "srcnat - 5"), *self._sources()],
            "forward_refuse": [_hook("filter", "forward", "filter - 10"), *self._refused()],
            "output_refuse": [_hook("filter", "output", "filter - 10"), *self._refused()],
        }
        body = "".join(_chain(name, rules) for name, rules in chains.items())
        return NftTable("inet", SERVICES_TABLE, body)

    def _of(self, kind: str) -> list[SlotMap]:
        return sorted(one for one in self.maps if one.kind == kind)

    def _sources(self) -> list[str]:
        rules = ["ct status & dnat == 0 return"]
        for cluster, own in self.pods:
            ip = _IP[cluster.version]
            rules += [
                f"{ip} saddr . {ip} daddr @hairpin{cluster.version} masquerade",
                f"{ip} saddr != {cluster} {ip} daddr {cluster} {ip} daddr != {own} masquerade",
            ]
            if not self.bridged:
                rules.append(f'iifname "{BRIDGE}" oifname "{BRIDGE}" {ip} saddr {own} masquerade')
        return rules

    def _refused(self) -> list[str]:
        return [f"{_IP[n.version]} daddr {n} jump refuse" for n in self.networks]


def with_next(maps: Iterable[SlotMap]) -> frozenset[SlotMap]:
    """The maps, and those that their services move to when they grow.

    These rules are there before, so that no service is without a rule while it moves.
    """
    found = set(maps)
    found |= {one._replace(slots=one.slots * STEP) for one in found if one.slots < MAX_SLOTS}
    return frozenset(found)


def _lookup(one: SlotMap) -> str:
    ip = _IP[one.family]
    choice = _CHOICE[one.selection].format(ip=ip, protocol=one.protocol, slots=one.slots, seed=SEED)
    address = f"{ip} daddr . " if one.kind == "virtual" else ""
    return f"dnat {ip} to {address}{one.protocol} dport . {choice} map @{one.name}"


def _source(family: int, bits: int) -> str:
    mask = ip_network(f"{_ANY[family]}/{bits}").netmask
    key = f"meta l4proto . th dport . {_IP[family]} saddr & {mask}"
    return f"{key} @{sources_set(family, bits).name} return"


def _hook(kind: str, name: str, priority: str) -> str:
    return f"type {kind} hook {name} priority {priority}; policy accept;"


def _chain(name: str, rules: Iterable[str]) -> str:
    return f"chain {name} {{\n" + "".join(f"{rule}\n" for rule in rules) + "}\n"
