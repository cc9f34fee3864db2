# SPDX-License-Identifier: Apache-2.0
"""What this host and etcd use themselves: by it leases and the cluster's network are judged."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from hostnet.kernel import Kernel
from hostnet.occupied import read_occupied
from hostnet.underlay import Underlay
from ipam.lease_claims import InUse, address_in_use

Address = IPv4Address | IPv6Address


def in_use(kernel: Kernel, etcd: Collection[Address]) -> list[InUse]:
    """Addresses and foreign routes of this host, and etcd's members. Raises NetlinkError."""
    return [InUse(*one) for one in read_occupied(kernel)] + _of_etcd(etcd)


def of_underlay(underlay: Underlay, etcd: Collection[Address]) -> list[InUse]:
    """What no cluster may take away: without it no host is reached any more."""
    found = []
    for one in underlay.addresses:
        found.append(address_in_use(one.ip, f"address {one.ip} of {underlay.link}"))
        found.append(InUse(one.network, f"the underlay {one.network} of {underlay.link}"))
    return found + _of_etcd(etcd)


def _of_etcd(addresses: Collection[Address]) -> list[InUse]:
    return [
        address_in_use(one, f"etcd member {one}")
        for one in sorted(addresses, key=lambda one: (one.version, int(one)))
        if not one.is_loopback
    ]
