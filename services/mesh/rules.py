# SPDX-License-Identifier: Apache-2.0
"""The nftables tables of the mesh.

`netdev`, without state, on the host that a client asks and on the way back:

    ingress   of the underlay device: a published port whose endpoint is elsewhere goes into the
              ingress tunnel as it is, to the endpoint's host
    egress    of the tunnel's device: a reply gets the hardware address of the host that was asked

`inet`, on the endpoint's host:

    arrive    members only; replies that pass the host that was asked are not tracked
    origin    which host a connection came through; its replies are routed back there
    refuse    what came by the tunnel and nobody serves
    tunnel    tunnel packets only from members
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hostnet.kinds.nft_table import NftTable
from hostnet.nft.sets import NftElement, NftSet
from hostnet.ownership import MESH_DEVICE, MESH_TABLE
from services.mesh.ingress import PUBLISHED
from services.mesh.member import MARK_MASK, MARK_TAG, Member, by_mark, packed_mac
from services.model import IPAddress, IPNetwork
from services.ruleset import SEED

PORT = 8473
"""UDP, of the ingress tunnel."""
VNI = 8473
REASONS = {
    "not_a_member": "a packet to the ingress tunnel's port that no member sent",
    "unknown_origin": "a packet in the ingress tunnel with a sender that is no member's",
    "wrong_inner": "a packet in the ingress tunnel from or to a pod",
    "nobody_serves": "a packet in the ingress tunnel to a port that no endpoint here serves",
}
"""The counters' names, and what was dropped or refused."""
_IP = {4: "ip", 6: "ip6"}
_HEADERS = {4: 40, 6: 60}  # bytes: IP and TCP
_PODS = '{ "kbr0", "obr0" }'
_CHOICE = {"hash": "jhash {ip} saddr . {p} sport", "client": "jhash {ip} saddr"}
_CLEAR_DNAT = "ct status & dnat == 0"

ORIGINS = NftSet("inet", MESH_TABLE, "origins", ("ether_addr",), ("mark",))
SENDERS = NftSet("inet", MESH_TABLE, "senders", ("ether_addr",))
RECEIVERS = NftSet("inet", MESH_TABLE, "receivers", ("ether_addr",))
REPLIES = NftSet("netdev", MESH_TABLE, "replies", ("mark",), ("ether_addr",))


def address_set(table: str, family: int) -> NftSet:
    """Members' addresses: in the table `netdev` PublicIPs, in `inet` the tunnel's ends."""
    return NftSet(table, MESH_TABLE, f"members{family}", (f"ipv{family}_addr",))


def member_sets() -> frozenset[NftSet]:
    """All sets but the maps of services."""
    addresses = {address_set(table, f) for table in ("netdev", "inet") for f in (4, 6)}
    return frozenset(addresses | {ORIGINS, SENDERS, RECEIVERS, REPLIES, PUBLISHED})


def member_elements(
    peers: dict[Member, int], own: Member, remotes: Collection[IPAddress]
) -> frozenset[NftElement]:
    """What the peers, with their marks, add; `remotes` are their ends of the tunnel."""
    found: set[NftElement] = set()
    for one, mark in by_mark(peers):
        packed = mark.to_bytes(4, sys.byteorder)
        found.add(NftElement(SENDERS, packed_mac(one.origin)))
        found.add(NftElement(ORIGINS, packed_mac(one.origin), packed))
        found.add(NftElement(RECEIVERS, packed_mac(one.receiver)))
        found.add(NftElement(REPLIES, packed, packed_mac(one.receiver)))
    for member in (*peers, own):
        for address in member.addresses:
            found.add(NftElement(address_set("netdev", address.version), address.packed))
    for address in remotes:
        found.add(NftElement(address_set("inet", address.version), address.packed))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class MeshRules:
    """What the texts are made from."""

    own: Member
    underlay_link: str
    mtu: int
    """Bytes, of the tunnel's device."""
    networks: Sequence[IPNetwork]
    """The cluster's."""
    maps: frozenset[NftSet]

    def tables(self) -> list[NftTable]:
        """Both."""
        return [
            NftTable("netdev", MESH_TABLE, self._netdev()),
            NftTable("inet", MESH_TABLE, self._inet()),
        ]

    def _netdev(self) -> str:
        members = [f"{_IP[f]} saddr @members{f} accept" for f in (4, 6)]
        # members lead their own pods' and processes' connections by themselves
        members += [f"{_IP[n.version]} saddr {n} accept" for n in self.networks]
        return (
            _chain("choose", [*members, *(self._lookup(one) for one in sorted(self.maps))])
            + _chain(
                "ingress",
                [
                    _device_hook("ingress", self.underlay_link, -10),
                    # only a whole packet has ports: fragments take the ordinary way
                    "ip frag-off & 0x3fff != 0 accept",
                    "exthdr frag exists accept",
                    "meta l4proto . th dport @published fib daddr type local jump choose",
                ],
            )
            + _chain(
                "egress",
                [
                    _device_hook("egress", MESH_DEVICE, 0),
                    # the mark would lead the outer packet into the tunnel again
                    "ether daddr set meta mark map @replies meta mark set 0",
                ],
            )
        )

    def _lookup(self, one: NftSet) -> str:
        kind, protocol, selection, slots = one.name.split("_")
        choice = _CHOICE[selection].format(ip=_IP[int(kind[-1])], p=protocol)
        return (
            f"ether daddr set {protocol} dport . {choice} mod {slots} seed {SEED} map @{one.name} "
            f'ether saddr set {self.own.origin} fwd to "{MESH_DEVICE}"'
        )

    def _inet(self) -> str:
        mine = f"ct mark & {MARK_MASK:#x} == {MARK_TAG:#x}"
        back = f"ct direction reply {mine} meta mark set ct mark"
        came = f'iifname "{MESH_DEVICE}"'
        chains = {
            "arrived": [
                # neither clients of the mesh nor whom replies go to are pods
                *(
                    f"ether saddr @{name} {_IP[n.version]} {end} {n} counter name wrong_inner drop"
                    for n in self.networks
                    for name, end in (("receivers", "daddr"), ("senders", "saddr"))
                ),
                "ether saddr @receivers notrack accept",
                "ether saddr @senders accept",
                "counter name unknown_origin drop",
            ],
            "tunnel": [
                f"iifname {_PODS} drop",
                'iifname "lo" accept',
                "ip saddr @members4 accept",
                "ip6 saddr @members6 accept",
                "counter name not_a_member drop",
            ],
            "refused": [
                "counter name nobody_serves",
                "meta l4proto tcp reject with tcp reset",
                "reject",
            ],
            "arrive": [_hook("filter", "prerouting", "raw"), f"{came} jump arrived"],
            "origin": [
                _hook("filter", "prerouting", "mangle"),
                *(self._clamp(came, family) for family in (4, 6)),
                # of each packet, not of the first only: the client's way may change
                f"{came} ct mark set ether saddr map @origins",
                f'iifname != "{MESH_DEVICE}" ct direction original {mine} ct mark set 0',
                back,
            ],
            "output": [_hook("route", "output", "mangle"), back],
            "refuse": [
                _hook("filter", "forward", "filter - 20"),
                f"{came} {_CLEAR_DNAT} jump refused",
                *(f"udp dport {PORT} {_IP[f]} daddr @members{f} drop" for f in (4, 6)),
            ],
            "input": [_hook("filter", "input", "filter - 20"), f"udp dport {PORT} jump tunnel"],
            "postrouting": [
                _hook("filter", "postrouting", "mangle"),
                *(self._clamp(f'oifname "{MESH_DEVICE}"', family) for family in (4, 6)),
            ],
        }
        counters = "".join(f"counter {name} {{\n}}\n" for name in REASONS)
        return counters + "".join(_chain(name, rules) for name, rules in chains.items())

    def _clamp(self, where: str, family: int) -> str:
        """A segment that fits into the tunnel; the kernel never makes it larger."""
        return (
            f"{where} meta nfproto ipv{family} tcp flags & (syn | rst) == syn "
            f"tcp option maxseg size set {self.mtu - _HEADERS[family]}"
        )


def _hook(kind: str, name: str, priority: str) -> str:
    return f"type {kind} hook {name} priority {priority}; policy accept;"


def _device_hook(name: str, device: str, priority: int) -> str:
    return f'type filter hook {name} device "{device}" priority {priority}; policy accept;'


def _chain(name: str, rules: Sequence[str]) -> str:
    return f"chain {name} {{\n" + "".join(f"{rule}\n" for rule in rules) + "}\n"
