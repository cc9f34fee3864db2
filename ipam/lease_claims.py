# SPDX-License-Identifier: Apache-2.0
"""Which leases this host believes: a lease says what it claims, and others have claims, too.

Whoever can write to the lease source can claim a subnet that others use, and every host would send
these packets to him. So a lease is served only when

    its subnets lie in the cluster's network and have the configured length
    no other lease has one of them
    its PublicIP is a unicast address outside of the cluster's network, of no other lease and not
    this host's
    its VTEP MAC, or its WireGuard key, is no other lease's; a VTEP MAC is a unicast MAC
    no address, no route of another program and no etcd member of this host lies in a subnet of it

The first one keeps working: this host's own lease, then those that were served already, then the
older one. What is refused is judged again whenever something changes that it was refused for.

A lease is judged alone when it changes: with 5,000 leases a change costs as much as with five.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, NamedTuple

from ipam.lease import MAC, Lease
from ipam.network import NetworkConfig

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
IN_USE = "in use"
"""The reason of what this host itself stands in the way of."""
KEY_SIZE = 32
"""Bytes of a WireGuard key (Curve25519)."""
MAX_VALUE = 200
"""Characters of a value from outside in a message."""


class InUse(NamedTuple):
    """A network that this host, or etcd, uses itself."""

    network: Network
    text: str
    """What uses it, for people."""
    via: str = ""
    """The gateway, of a route."""
    is_route: bool = False
    """Whether it is no more than a route: no address lies in it."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What leases are judged by."""

    config: NetworkConfig
    own: Lease | None = None
    in_use: tuple[InUse, ...] = ()
    """Of this host and of etcd; `relevant` of them."""


def relevant(config: NetworkConfig, in_use: Iterable[InUse]) -> tuple[InUse, ...]:
    """Those that lie in the cluster's networks; usually none.

    A route to more than a whole network of the cluster is no conflict: the leases' routes are
    longer, and meant to be.
    """
    return tuple(
        one
        for one in in_use
        if any(
            one.network.version == n.version
            and one.network.prefixlen >= n.prefixlen
            and one.network.overlaps(n)
            for n in config.networks
        )
    )


class Refusal(NamedTuple):
    """Why a lease is not served."""

    reason: str
    """One of a few words, for metrics."""
    text: str
    """One line: the key, what, why, the mend."""
    blocked_by: Hashable = None
    """The claim that another lease has; None: it is refused for what it says itself."""


@dataclass(slots=True)
class LeaseClaims:
    """All leases, and which of them are served. Used by one thread."""

    refused: dict[str, Refusal] = field(default_factory=dict)
    """By lease key."""
    _rules: ClaimRules | None = None
    _served: dict[str, Lease] = field(default_factory=dict)
    _holders: dict[Hashable, str] = field(default_factory=dict)
    """Which served lease has a claim."""
    _waiting: defaultdict[Hashable, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Which leases are refused because of a claim."""

    def take(
        self, leases: Mapping[str, Lease], changed: Collection[str], rules: ClaimRules
    ) -> tuple[Mapping[str, Lease], frozenset[str]]:
        """Judge the leases under the changed keys; returns what to serve, and whose part changes.

        All are judged again when the rules have changed.
        """
        whole = rules != self._rules
        self._rules = rules
        keys = set(leases) | set(self._served) if whole else set(changed)
        old = {key: self._served[key] for key in keys if key in self._served}
        if whole:
            self._served, self._holders, self.refused = {}, {}, {}
            self._waiting.clear()
            if rules.own is not None:
                self._holders = dict.fromkeys(_claims(rules.own), rules.own.key)
        again: set[str] = set()
        for key in keys:
            again |= self._withdraw(key)
        order = sorted(
            (key for key in keys | again if key in leases),
            key=lambda key: (key not in old, leases[key].since, key),
        )
        for key in order:
            self._judge(key, leases[key], served_before=key in old)
        touched = keys | again
        differs = frozenset(k for k in touched if old.get(k) != self._served.get(k))
        if not self.refused:
            return leases, differs
        return {k: lease for k, lease in leases.items() if k not in self.refused}, differs

    def _withdraw(self, key: str) -> set[str]:
        """Forget a lease; returns the keys of those that wait for what it claimed."""
        self._forget_refusal(key)
        lease = self._served.pop(key, None)
        wanted: set[str] = set()
        for claim in _claims(lease) if lease is not None else ():
            if self._holders.get(claim) == key:
                del self._holders[claim]
                wanted |= self._waiting.get(claim, set())
        return wanted

    def _forget_refusal(self, key: str) -> None:
        refusal = self.refused.pop(key, None)
        if refusal is not None and refusal.blocked_by is not None:
            waiting = self._waiting[refusal.blocked_by]
            waiting.discard(key)
            if not waiting:
                del self._waiting[refusal.blocked_by]

    def _judge(self, key: str, lease: Lease, *, served_before: bool) -> None:
        assert self._rules is not None  # noqa: S101 - `take` has set it
        own = self._rules.own
        ours = own is not None and key == own.key
        refusal = None if ours else self._refusal(lease, served_before=served_before)
        self._forget_refusal(key)
        if refusal is not None:
            self.refused[key] = refusal
            if refusal.blocked_by is not None:
                self._waiting[refusal.blocked_by].add(key)
            return
        self._served[key] = lease
        for claim in _claims(own if own is not None and ours else lease):
            self._holders.setdefault(claim, key)

    def _refusal(self, lease: Lease, *, served_before: bool) -> Refusal | None:
        rules = self._rules
        assert rules is not None  # noqa: S101 - `take` has set it
        found = (
            _outside(lease, rules.config, served_before=served_before)
            or _bad_address(lease, rules)
            or _bad_mac(lease)
            or _in_use(lease, rules.in_use, served_before=served_before)
        )
        blocked_by: Hashable = None
        if found is None:
            for claim in _claims(lease):
                holder = self._holders.get(claim)
                if holder is not None and holder != lease.key:
                    kind, value = claim
                    found = (kind, f"its {kind} {value} is lease {holder}'s")
                    blocked_by = claim
                    break
        if found is None:
            return None
        reason, why = found
        mend = f"release one of the two with flatmesh lease release, or correct {lease.key}"
        text = f"lease {lease.key[:MAX_VALUE]} is not served: {why[:MAX_VALUE]}; {mend}"
        return Refusal(reason, text, blocked_by)


Objection = tuple[str, str] | None
"""The reason in a word or two, and in full."""


def _outside(lease: Lease, config: NetworkConfig, *, served_before: bool) -> Objection:
    """Whether a subnet is not one of those that the config offers.

    A lease that was served before the config changed is kept: its host's pods run.
    """
    for subnet, network, length in (
        (lease.subnet, config.network, config.subnet_len),
        (lease.ipv6_subnet, config.ipv6_network, config.ipv6_subnet_len),
    ):
        if subnet is None or network is None or served_before:
            continue
        if config.lengths_chosen and subnet.prefixlen != length:
            return "length", f"{subnet} has not the configured length of {length}"
        if not network.supernet_of(subnet):  # type: ignore[arg-type]
            return "network", f"{subnet} lies outside of {network}"
    return None


def _bad_address(lease: Lease, rules: ClaimRules) -> Objection:
    for address in lease.attributes.addresses:
        if address.is_multicast or address.is_loopback or address.is_unspecified or _odd(address):
            return "PublicIP", f"PublicIP {address} is no host's address"
        if any(address in network for network in rules.config.networks):
            return "PublicIP", f"PublicIP {address} lies in the cluster's own network"
    return None


def _odd(address: Address) -> bool:
    """0.0.0.0/8, and class E with the broadcast address (RFC 1122, 3.2.1.3)."""
    return address.version == 4 and (int(address) >> 24 == 0 or int(address) >> 28 == 0xF)


def _bad_mac(lease: Lease) -> Objection:
    for kind, value in _claims(lease):
        if kind == "VtepMAC":
            first = int(value[-17:-15], 16)
            if first & 1 or int(value[-17:].replace(":", ""), 16) == 0:
                return "VtepMAC", f"VtepMAC {value[-17:]} is no unicast MAC"
    return None


def _in_use(lease: Lease, in_use: Iterable[InUse], *, served_before: bool) -> Objection:
    """Whether this host uses a subnet itself.

    A route that another program sets to the subnet of a lease that is served has taken the place of
    ours: it is the intruder, and what becomes of it is not judged here.
    """
    for one in in_use:
        for subnet in lease.subnets:
            if subnet.version != one.network.version or not subnet.overlaps(one.network):
                continue
            if one.via and any(one.via == str(address) for address in lease.attributes.addresses):
                continue  # the same route, which a flanneld left
            if served_before and one.is_route and one.network == subnet:
                continue
            return IN_USE, f"{subnet} overlaps {one.text} here"
    return None


def _claims(lease: Lease) -> Iterator[tuple[str, str]]:
    """What a lease claims for itself alone, by kind."""
    for subnet in lease.subnets:
        yield "subnet", str(subnet)
    for address in lease.attributes.addresses:
        yield "PublicIP", str(address)
    data = lease.attributes.backend_data, lease.attributes.backend_v6_data
    for family, one in zip((4, 6), data, strict=True):
        mac, key = _text(one, "VtepMAC"), _text(one, "PublicKey")
        if MAC.fullmatch(mac):
            yield "VtepMAC", f"IPv{family} {mac.lower()}"
        if (octets := _key_octets(key)) is not None:
            yield "WireGuard key", f"IPv{family} {base64.b64encode(octets).decode()}"


def _key_octets(text: str) -> bytes | None:
    """The 32 bytes of a key; several texts in base64 say the same. None: it is no key."""
    try:
        octets = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return octets if len(octets) == KEY_SIZE else None


def _text(data: Any, name: str) -> str:
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


def network_conflicts(config: NetworkConfig, in_use: Iterable[InUse]) -> list[str]:
    """Why a cluster config can't be used where these networks are in use; a line each. Pure."""
    return [
        f"the cluster's network {n} overlaps {one.text}"
        for n in config.networks
        for one in relevant(config, in_use)
        if one.network.version == n.version and one.network.overlaps(n)
    ]


def hidden_networks(config: NetworkConfig, in_use: Iterable[InUse]) -> list[str]:
    """Which networks in use the cluster's lies inside of, so that it hides a part; a line each.

    That works, as the routes of leases are longer, but not for hosts with such addresses. Pure.
    """
    return [
        f"the cluster's network {n} lies inside {one.text}: hosts there whose addresses are in {n} "
        "can't be reached from here, and pods can't reach them"
        for n in config.networks
        for one in in_use
        if one.network.version == n.version
        and one.network.prefixlen < n.prefixlen
        and one.network.overlaps(n)
    ]


def address_in_use(address: Address, text: str) -> InUse:
    """A single address."""
    return InUse(ip_network(address), text)
