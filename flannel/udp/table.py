# SPDX-License-Identifier: Apache-2.0
"""Which subnet is reached at which host: from leases to the table that the threads search.

A table is a value, and travels as JSON between the daemon and the data-plane process:

    {"own": ["10.5.1.0/24"],
     "peers": [{"subnets": ["10.5.2.0/24"], "ipv4": "192.168.64.12", "ipv6": null,
                "by": 4}]}

`by` is the family of the underlay that packets to the peer take: IPv4 where both hosts have
an IPv4 address there, else IPv6. Packets from the peer are accepted from either address.

Subnets may lie within each other (a reservation inside a larger lease): `pack` cuts the longer
prefixes out of the shorter ones, so that the threads find the longest match among disjoint
ranges with one binary search.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from ipam.lease import Lease, PeerUnusableError

NAME = "udp"
OWN_HOST = -2
"""The number that stands for this host among peers, as in plane/peers.h."""
IPNetwork = IPv4Network | IPv6Network
AddressRanges = list[tuple[int, int, int]]
"""First and last address, and the number of the peer."""

_PEER = struct.Struct("=4s16sHBx")
_RANGE4 = struct.Struct("=IIi")
_RANGE6 = struct.Struct("=QQQQiI")
_LOW = (1 << 64) - 1


@dataclass(frozen=True, slots=True, order=True)
class UdpPeer:
    """One host of the cluster but this one."""

    subnets: tuple[str, ...]
    ipv4: str | None
    ipv6: str | None
    by: int
    """4 or 6: which of the two addresses packets go to."""

    @property
    def endpoint(self) -> str:
        """The underlay address that packets go to."""
        return str(self.ipv4 if self.by == 4 else self.ipv6)

    def lines(self, sign: str) -> list[str]:
        """A line of the log for each subnet; `sign` is `+` or `-`."""
        return [f"udp: {sign} {subnet} at {self.endpoint}" for subnet in self.subnets]


@dataclass(frozen=True, slots=True)
class UdpTable:
    """The whole cluster as one host sees it."""

    own: tuple[str, ...] = ()
    """This host's subnets."""
    peers: tuple[UdpPeer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads."""
        peers = [
            {"subnets": list(p.subnets), "ipv4": p.ipv4, "ipv6": p.ipv6, "by": p.by}
            for p in self.peers
        ]
        return {"own": list(self.own), "peers": peers}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> UdpTable:
        """Read the document. Raises KeyError, TypeError when it is none."""
        peers = (
            UdpPeer(tuple(p["subnets"]), p["ipv4"], p["ipv6"], p["by"]) for p in document["peers"]
        )
        return cls(tuple(document["own"]), tuple(peers))

    def changes_to(self, wanted: UdpTable) -> list[str]:
        """The difference, a line for each subnet that comes or goes."""
        mine, theirs = set(self.peers), set(wanted.peers)
        gone = [line for peer in sorted(mine - theirs, key=_order) for line in peer.lines("-")]
        come = [line for peer in sorted(theirs - mine, key=_order) for line in peer.lines("+")]
        if self.own != wanted.own:
            come.append(f"udp: own subnets {', '.join(wanted.own) or 'none'}")
        return gone + come

    def pack(self, port: int) -> tuple[bytes, bytes, bytes]:
        """The arguments of `_plane.DataPlane.set_peers`; every peer listens on `port`."""
        peers = b"".join(
            _PEER.pack(
                IPv4Address(p.ipv4).packed if p.ipv4 else bytes(4),
                IPv6Address(p.ipv6).packed if p.ipv6 else bytes(16),
                port,
                p.by == 6,
            )
            for p in self.peers
        )
        owned = [(ip_network(subnet), OWN_HOST) for subnet in self.own]
        owned += [(ip_network(s), n) for n, p in enumerate(self.peers) for s in p.subnets]
        ranges4 = flatten((network, who) for network, who in owned if network.version == 4)
        ranges6 = flatten((network, who) for network, who in owned if network.version == 6)
        return (
            peers,
            b"".join(_RANGE4.pack(*r) for r in ranges4),
            b"".join(
                _RANGE6.pack(first >> 64, first & _LOW, last >> 64, last & _LOW, who, 0)
                for first, last, who in ranges6
            ),
        )


def _order(peer: UdpPeer) -> tuple[str, ...]:
    return peer.subnets


def flatten(networks: Iterable[tuple[IPNetwork, int]]) -> AddressRanges:
    """Ascending, disjoint ranges in which the longest of overlapping prefixes wins.

    Networks are of one family. Of two that are equal the last one wins.
    """
    spans = {(int(n.network_address), int(n.broadcast_address)): who for n, who in networks}
    found: AddressRanges = []
    around: list[tuple[int, int]] = []
    """Last address and owner of the prefixes we are inside of, the shortest first."""
    position = 0

    def close_until(address: int) -> None:
        """Give what lies before `address` to the innermost prefix that covers it."""
        nonlocal position
        while around and position < address:
            last, who = around[-1]
            end = min(last, address - 1)
            if position <= end:
                found.append((position, end, who))
                position = end + 1
            if last < address:
                around.pop()
        position = max(position, address)

    for (first, last), who in sorted(spans.items(), key=lambda item: (item[0][0], -item[0][1])):
        close_until(first)
        while around and around[-1][0] < first:
            around.pop()
        around.append((last, who))
    close_until(1 << 128)
    return found


def reach(peer: Lease, own: Lease) -> UdpPeer:
    """How a peer is reached. Raises PeerUnusableError when it isn't, or has another backend."""
    theirs, ours = peer.attributes, own.attributes
    if theirs.backend_type not in ("", NAME):
        raise PeerUnusableError(
            f"lease {peer.key}: backend is {theirs.backend_type}, ours is {NAME}"
        )
    pairs = ((peer.subnet, own.subnet), (peer.ipv6_subnet, own.ipv6_subnet))
    subnets = tuple(str(network) for network, mine in pairs if network and mine)
    by_ipv4 = theirs.public_ip is not None and ours.public_ip is not None
    by_ipv6 = theirs.public_ipv6 is not None and ours.public_ipv6 is not None
    if not subnets or not (by_ipv4 or by_ipv6):
        what = "subnet" if not subnets else "underlay address"
        raise PeerUnusableError(f"lease {peer.key}: no {what} of a family that we have too")
    return UdpPeer(
        subnets,
        str(theirs.public_ip) if by_ipv4 else None,
        str(theirs.public_ipv6) if by_ipv6 else None,
        4 if by_ipv4 else 6,
    )


def table_of(own: Lease, peers: Sequence[Lease]) -> UdpTable:
    """The table for these leases; those that can't be used are left out."""
    found = []
    for peer in peers:
        try:
            found.append(reach(peer, own))
        except PeerUnusableError:
            continue  # `UdpBackend.peer` has raised it, and the daemon reported it
    mine = tuple(map(str, own.subnets))
    return UdpTable(mine, tuple(sorted(found, key=_order)))
