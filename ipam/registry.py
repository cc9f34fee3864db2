"""Leases in etcd: take one, keep it, change it, give it back.

Every write is a transaction with a compare: a key is created only if it doesn't exist, and
changed only if it is as we last saw it. Nothing is ever taken from another host, however late
or twice a request arrives.

A lease's key is attached to an etcd lease with a time to live, which `keep_alive` renews; a
key without one is a reservation: an operator's promise of a subnet to a host, by PublicIP. Its
host uses it and never loses it; nobody else takes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from ipaddress import IPv4Network, IPv6Network, ip_address

from ipam import lease as codec
from ipam.choose import Taken, candidates, fits
from ipam.etcd import Etcd, EtcdError, EtcdUnavailableError
from ipam.lease import Lease, LeaseAttributes, LeaseError
from ipam.network import ConfigError, NetworkConfig, parse_config

DEFAULT_PREFIX = "/coreos.com/network"
DEFAULT_TTL = 86400  # seconds; flanneld's
ROUNDS = 20
"""Listings until we say that there is no free subnet, when others keep taking the last ones."""

log = logging.getLogger("ipam.registry")


class NoFreeSubnetError(Exception):
    """All subnets are held; the message says of which network."""


class LeaseLostError(Exception):
    """A lease is no longer as we last saw it: deleted, expired, or another host's."""


class Registry:
    """The leases below one prefix."""

    def __init__(self, etcd: Etcd, prefix: str = DEFAULT_PREFIX) -> None:
        self.etcd = etcd
        self.prefix = prefix.rstrip("/")

    @property
    def config_key(self) -> str:
        """Where the cluster config is."""
        return f"{self.prefix}/config"

    @property
    def subnets(self) -> str:
        """What every lease's key begins with."""
        return f"{self.prefix}/subnets/"

    # -- cluster config --------------------------------------------------------------

    async def config_text(self) -> str:
        """The cluster config as it is stored. Raises ConfigError when there is none."""
        found, _ = await self.etcd.get(self.config_key)
        if found is None:
            raise ConfigError(no_config(self.config_key))
        return found.value.decode(errors="replace")

    async def config(self) -> tuple[NetworkConfig, int]:
        """The cluster config, and its revision. Raises ConfigError, EtcdError."""
        found, _ = await self.etcd.get(self.config_key)
        if found is None:
            raise ConfigError(no_config(self.config_key))
        return parse_config(found.value), found.mod_revision

    async def set_config(self, text: str) -> None:
        """Write the cluster config; the caller has checked it."""
        await self.etcd.put(self.config_key, text.encode())

    # -- leases ----------------------------------------------------------------------

    async def leases(self) -> tuple[dict[str, Lease], int]:
        """All leases and reservations by key, and the revision they are of."""
        found, revision = await self.etcd.list(self.subnets)
        leases = {}
        for kv in found:
            try:
                lease = codec.parse(
                    kv.key.removeprefix(self.subnets),
                    kv.value,
                    revision=kv.mod_revision,
                    etcd_lease=kv.lease,
                )
            except LeaseError as error:
                log.debug("%s: %s", kv.key, error)
                continue
            leases[lease.key] = lease
        return leases, revision

    async def acquire(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        *,
        previous: Lease | None = None,
        ttl: int = DEFAULT_TTL,
    ) -> Lease:
        """Take a lease: our own by PublicIP, else the previous subnet, else a free one.

        Raises NoFreeSubnetError, EtcdError.
        """
        etcd_lease = await self.etcd.grant(ttl)
        try:
            lease = await self._acquire(config, attributes, previous, etcd_lease)
        except BaseException:
            await self._forget(etcd_lease)
            raise
        if lease.etcd_lease != etcd_lease:  # a reservation: it needs no lease of etcd's
            await self._forget(etcd_lease)
        return lease

    async def _acquire(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: Lease | None,
        etcd_lease: int,
    ) -> Lease:
        for attempt in range(ROUNDS):
            leases, _ = await self.leases()
            own = next(
                (
                    held
                    for held in leases.values()
                    if same_host(held.attributes, attributes)
                    and fits(config, held.subnet, held.ipv6_subnet)
                ),
                None,
            )
            if own is not None:
                taken = await self._write(own, attributes, 0 if own.reserved else etcd_lease)
                if taken is not None:
                    return taken
                continue
            held_by_others = Taken(leases.values())
            wanted = [(previous.subnet, previous.ipv6_subnet)] if previous is not None else []
            for v4, v6 in wanted:
                if not fits(config, v4, v6) or any(map(held_by_others.overlaps, (v4, v6))):
                    wanted = []
            tried = False
            for v4, v6 in [*wanted, *_some(candidates(config, held_by_others))]:
                tried = True
                lease = await self._write(Lease(v4, v6), attributes, etcd_lease)
                if lease is not None:
                    return lease
            if not tried:
                break
            # others were faster everywhere: spread out before the next look
            await asyncio.sleep(random.uniform(0, 0.05 * (attempt + 1)))  # noqa: S311
        networks = [str(n) for n in (config.network, config.ipv6_network) if n is not None]
        raise NoFreeSubnetError(
            f"no free subnet in {' and '.join(networks)}: release one "
            "(flatmesh lease list, flatmesh lease release) or widen the network"
        )

    async def _write(
        self, lease: Lease, attributes: LeaseAttributes, etcd_lease: int
    ) -> Lease | None:
        """Put a lease over exactly what we saw; None when somebody was faster."""
        revision = await self.etcd.put_if(
            self.subnets + lease.key,
            codec.format_value(attributes).encode(),
            mod_revision=lease.revision,
            lease=etcd_lease,
        )
        if revision is None:
            return None
        return Lease(
            lease.subnet, lease.ipv6_subnet, attributes, etcd_lease == 0, revision, etcd_lease
        )

    async def update(self, lease: Lease, attributes: LeaseAttributes) -> Lease:
        """Publish new attributes in a lease of ours. Raises LeaseLostError, EtcdError."""
        updated = await self._write(lease, attributes, lease.etcd_lease)
        if updated is None:
            raise LeaseLostError(f"lease {lease.key} is no longer as we last saw it")
        return updated

    async def keep_alive(self, lease: Lease) -> None:
        """Renew a lease for as long as it lives; returns when its etcd lease has expired.

        Goes on through outages: only etcd itself says that a lease is over. A reservation
        needs no renewing: waits for ever.
        """
        if lease.etcd_lease == 0:
            await asyncio.Event().wait()
        wait = 0.0
        while True:
            await asyncio.sleep(wait)
            try:
                ttl = await self.etcd.keep_alive(lease.etcd_lease)
            except EtcdUnavailableError as error:
                log.debug("renewing %s: %s", lease.key, error)
                wait = 1.0
                continue
            if ttl == 0:
                return
            wait = ttl / 3

    async def release(self, lease: Lease) -> bool:
        """Give a lease back if it is still as we last saw it; says whether it was."""
        released = await self.etcd.delete_if(self.subnets + lease.key, mod_revision=lease.revision)
        if released and lease.etcd_lease:
            await self._forget(lease.etcd_lease)
        return released

    async def release_subnet(self, subnet: IPv4Network | None, ipv6: IPv6Network | None) -> bool:
        """Give back whoever's lease or reservation of these subnets; False: there was none."""
        return await self.etcd.delete(self.subnets + codec.format_key(subnet, ipv6))

    async def reserve(
        self, subnet: IPv4Network | None, ipv6: IPv6Network | None, public_ip: str
    ) -> Lease:
        """Promise subnets to the host with this address.

        Raises LeaseError when they, or a part of them, are held; EtcdError.
        """
        address = ip_address(public_ip)
        attributes = (
            LeaseAttributes(public_ip=address)
            if address.version == 4
            else LeaseAttributes(public_ipv6=address)
        )
        leases, _ = await self.leases()
        taken = Taken(leases.values())
        if taken.overlaps(subnet) or taken.overlaps(ipv6):
            raise LeaseError(f"{codec.format_key(subnet, ipv6)}: held already, or overlaps a lease")
        lease = await self._write(Lease(subnet, ipv6), attributes, 0)
        if lease is None:
            raise LeaseError(f"{codec.format_key(subnet, ipv6)}: somebody was faster")
        return lease

    async def _forget(self, etcd_lease: int) -> None:
        try:
            await self.etcd.revoke(etcd_lease)
        except EtcdError as error:
            log.debug("revoking etcd lease %x: %s", etcd_lease, error)  # it expires by itself


def same_host(one: LeaseAttributes, other: LeaseAttributes) -> bool:
    """Whether two leases are published under one host's address."""
    if one.public_ip is not None or other.public_ip is not None:
        return one.public_ip == other.public_ip
    return one.public_ipv6 is not None and one.public_ipv6 == other.public_ipv6


def no_config(key: str) -> str:
    """The line for a cluster without a config."""
    return (
        f"no cluster config at {key}: write one with "
        """flatmesh config set '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'"""
    )


def _some(free: object, limit: int = 512) -> list[tuple[IPv4Network | None, IPv6Network | None]]:
    """As many candidates as one listing is good for: it ages while we try them."""
    from itertools import islice  # noqa: PLC0415 - stdlib

    return list(islice(free, limit))  # type: ignore[call-overload]
