# SPDX-License-Identifier: Apache-2.0
"""Who the members of the cluster are, as elements of the sets that the host's filter looks up.

    protected4    PublicIPs of all leases, addresses of this host and of etcd: closed to pods
    hosts4        the hosts' own addresses in the overlay: in the cluster's network, but no pods'
    members4      PublicIPs of peers: who may send to tunnel ports
    vxlan4_24     (PublicIP, inner source) of peers, inner sources cut to 24 bits: what the subnets
                  of their leases contain. One set for each length in use, and one of 32 bits for
                  PublicIPs, which hosts send from where nothing is masqueraded
    plain4_24     subnets of peers, where packets arrive without a tunnel

and the same with 6. They are hash sets: a look-up costs the same with one lease and with 10,000,
which sets of intervals don't offer. Each lease adds its elements, and an element goes with the last
lease that needs it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from backend.arrivals import Arrivals, Check
from hostnet.nft.sets import NftElement, NftSet
from hostnet.ownership import NFT_TABLE
from ipam.lease import Lease

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
HOST_LENGTH = {4: 32, 6: 128}


@functools.cache
def address_set(name: str, family: int) -> NftSet:
    """A set of addresses of a family, as `members4`."""
    return NftSet("inet", NFT_TABLE, f"{name}{family}", (f"ipv{family}_addr",))


@functools.cache
def vxlan_set(family: int, length: int) -> NftSet:
    """The pairs of outer and inner source whose inner one is cut to `length` bits."""
    types = (f"ipv{family}_addr", f"vxlan_ipv{family}_saddr")
    return NftSet("inet", NFT_TABLE, f"vxlan{family}_{length}", types)


@functools.cache
def plain_set(family: int, length: int) -> NftSet:
    """The subnets of `length` that packets without a tunnel may come from."""
    return NftSet("inet", NFT_TABLE, f"plain{family}_{length}", (f"ipv{family}_addr",))


def address_element(name: str, address: IPAddress) -> NftElement:
    """An address in one of the sets of addresses."""
    return _element(address_set(name, address.version), address)


def _element(of: NftSet, *addresses: IPAddress) -> NftElement:
    # an address has whole registers: fields of a concatenation need no padding
    return NftElement(of, b"".join([address.packed for address in addresses]))


def elements_of(lease: Lease, arrivals: Arrivals, *, peer: bool) -> Iterator[NftElement]:
    """What one lease adds; `peer` is false for this host's own."""
    for address in lease.attributes.addresses:
        yield address_element("protected", address)
    for subnet in lease.subnets:
        yield address_element("hosts", subnet.network_address)
    if not peer:
        return
    if any(port.check is not Check.NONE for port in arrivals.ports):
        for address in lease.attributes.addresses:
            yield address_element("members", address)
    if any(port.check is Check.VXLAN for port in arrivals.ports):
        for subnet in lease.subnets:
            for address in lease.attributes.addresses:
                if address.version == subnet.version:
                    of = vxlan_set(subnet.version, subnet.prefixlen)
                    yield _element(of, address, subnet.network_address)
                    yield _element(
                        vxlan_set(address.version, HOST_LENGTH[address.version]), address, address
                    )
    if arrivals.plain:
        for subnet in lease.subnets:
            yield _element(plain_set(subnet.version, subnet.prefixlen), subnet.network_address)


@dataclass(slots=True)
class MemberElements:
    """The elements of all leases, kept up by the keys of those that changed."""

    arrivals: Arrivals
    is_peer: Callable[[Lease], bool]
    parts: dict[str, frozenset[NftElement]] = field(default_factory=dict)
    """By lease key."""
    uses: Counter[NftElement] = field(default_factory=Counter)
    """How many leases need an element."""

    def update(
        self, leases: Mapping[str, Lease], keys: Iterable[str]
    ) -> tuple[frozenset[NftElement], frozenset[NftElement]]:
        """Take in the leases under `keys` as they are now; returns what (goes, comes)."""
        changed: dict[NftElement, bool] = {}
        """Whether each was there before."""
        uses = self.uses
        for key in keys:
            old = self.parts.pop(key, frozenset())
            new: frozenset[NftElement] = frozenset()
            lease = leases.get(key)
            if lease is not None:
                new = frozenset(elements_of(lease, self.arrivals, peer=self.is_peer(lease)))
                self.parts[key] = new
            for one in old ^ new:
                count = uses[one]
                changed.setdefault(one, count > 0)
                uses[one] = count + 1 if one in new else count - 1
        gone = frozenset(one for one, was in changed.items() if was and not self.uses[one])
        come = frozenset(one for one, was in changed.items() if not was and self.uses[one])
        for one in gone:
            del uses[one]
        return gone, come
