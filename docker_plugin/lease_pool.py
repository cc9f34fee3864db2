# SPDX-License-Identifier: Apache-2.0
"""The pool of addresses that Docker's networks share with the pods: this host's lease.

Nothing of a pool is stored: its id says all, `10.5.1.0/24` or, with `--ip-range`,
`10.5.1.0/24,10.5.1.64/26`.
"""

from __future__ import annotations

from typing import NamedTuple

from cni import cidr
from cni.address_pool import LEASE_POOL, AddressPool, lease_sets, read_subnet_env
from cni.cidr import Cidr
from cni.config.address_range import PoolRange
from cni.host import PluginHost
from cni.set_aside import without
from docker_plugin.request import DockerCallError


class LeasePool(NamedTuple):
    """One family of the lease, or a part of it."""

    whole: PoolRange
    part: Cidr
    """Where addresses come from that nobody asked for by name."""

    @property
    def identifier(self) -> str:
        """How dockerd names it in later calls."""
        subnet = self.whole.subnet
        return str(subnet) if self.part == subnet else f"{subnet},{self.part}"

    @property
    def gateway(self) -> str:
        """With the prefix length."""
        return f"{self.whole.gateway_text()}/{self.whole.subnet.length}"

    def pool(self, requested: tuple[int, int] | None, host: PluginHost) -> AddressPool:
        """What to reserve an address from. Raises CniError (50), DockerCallError."""
        first, last = self.part.value, self.part.last
        piece = self.whole
        if requested is None and self.part != self.whole.subnet:
            piece = piece._replace(first=max(piece.first, first), last=min(piece.last, last))
        (left,) = without([(piece,)], host.set_aside())
        if requested is None:
            return AddressPool((left,), name=LEASE_POOL)
        family, value = requested
        if not any(one.family == family and one.holds(value) for one in left):
            text = cidr.to_text(family, value)
            raise DockerCallError(
                f"{text} can't be given: it is not of {self.whole.subnet}, or the gateway's, or "
                "set aside for Docker's default bridge"
            )
        return AddressPool((left,), (requested,), name=LEASE_POOL)


def own_range(family: int, host: PluginHost) -> PoolRange:
    """This host's lease of one family. Raises CniError (50), DockerCallError."""
    for ranges in lease_sets(read_subnet_env(host.subnet_file)):
        if ranges[0].family == family:
            return ranges[0]
    raise DockerCallError(f"this host's lease has no IPv{family}: see the cluster config")


def pool_for(pool: Cidr | None, part: Cidr | None, family: int, host: PluginHost) -> LeasePool:
    """The pool that a network asks for. Raises CniError (50), DockerCallError.

    `pool` may be a larger network, as the cluster's: one command then does for all hosts.
    """
    whole = own_range(pool.family if pool is not None else family, host)
    if pool is not None and not pool.contains(whole.subnet):
        raise DockerCallError(
            f"subnet {pool} is not this host's lease, {whole.subnet}: leave --subnet out, or name "
            "the cluster's network"
        )
    if part is not None and not whole.subnet.contains(part):
        raise DockerCallError(f"ip-range {part} is not in this host's lease, {whole.subnet}")
    return LeasePool(whole, part or whole.subnet)


def pool_of(identifier: str, host: PluginHost) -> LeasePool:
    """The pool of an id. Raises CniError (50), DockerCallError: the host has another lease now."""
    subnet_text, _, part_text = identifier.partition(",")
    try:
        subnet = cidr.parse_cidr(subnet_text)
        part = cidr.parse_cidr(part_text) if part_text else subnet
    except ValueError:
        raise DockerCallError(f"PoolID: {identifier[:64]!r} is none of this driver's") from None
    whole = own_range(subnet.family, host)
    if whole.subnet != subnet:
        raise DockerCallError(
            f"this host's lease is {whole.subnet} now, no longer {subnet}: remove the Docker "
            "network and create it again"
        )
    return LeasePool(whole, part)
