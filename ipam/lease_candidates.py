# SPDX-License-Identifier: Apache-2.0
"""Which subnets one transaction asks for, and which leases may be this host's. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from etcd.client import KeyValue
from ipam.lease import Lease, LeaseAttributes, LeaseError
from ipam.lease_source import LeaseSourceError
from ipam.network import NetworkConfig
from ipam.subnet_allocator import Choice, Subnets, choices

CANDIDATES = 16
"""Subnets that one transaction asks for in turn."""


class NoFreeSubnetError(LeaseSourceError):
    """All subnets are held; the message names the network and the remedy."""


def networks(config: NetworkConfig) -> str:
    """The networks of a config, for messages."""
    return " and ".join(map(str, config.networks))


def candidates(config: NetworkConfig, held: list[Subnets], previous: Lease | None) -> list[Choice]:
    """What to ask for in one transaction. Raises NoFreeSubnetError."""
    wanted = choices(config, held, previous=previous, count=CANDIDATES)
    if not wanted:
        raise NoFreeSubnetError(
            f"no free subnet in {networks(config)}: release one "
            "(flatmesh lease list, flatmesh lease release) or widen the network"
        )
    return wanted


def is_paired(lease: Lease, wanted: list[Choice]) -> bool:
    """Whether every host that asks for one of its subnets asks for the other, too."""
    return any(
        choice.paired and choice.subnets == (lease.subnet, lease.ipv6_subnet) for choice in wanted
    )


def may_be_of(attributes: LeaseAttributes, found: list[KeyValue]) -> list[KeyValue]:
    """Leave out what can't be this host's: decoding thousands of leases takes seconds."""
    if attributes.public_ip is None:
        return found
    address = str(attributes.public_ip).encode()
    return [kv for kv in found if address in kv.value]


def only_address(public_ip: str) -> LeaseAttributes:
    """Attributes with nothing but the host's address. Raises LeaseError."""
    try:
        address = ip_address(public_ip)
    except ValueError as error:
        raise LeaseError(f"public IP: {error}") from None
    if address.version == 4:
        return LeaseAttributes(public_ip=address)
    return LeaseAttributes(public_ipv6=address)
