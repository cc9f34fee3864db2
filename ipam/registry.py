# SPDX-License-Identifier: Apache-2.0
"""Leases in etcd: take one, keep it, change it, give it back.

Theory of operation: every write is a transaction with a compare. A key is created only where
there is none, and changed only if it is as we last saw it, so nothing is ever taken from
another host, however late or twice a request arrives.

Joining takes one list and one transaction, which asks for several free subnets in turn and
takes the first that is still free; when all are gone it answers with all keys, and the next
transaction asks for what is free now. Each failure means that others succeeded, so it ends:
with a lease, or with the certainty that there is no free subnet.

A lease's key is attached to an etcd lease with a time to live, which `keep_alive` renews; a
renewal writes no key, so it can't overwrite anybody's. A daemon that starts again goes on with
the etcd lease its key already has, and writes nothing. A key without an etcd lease is a
reservation: an operator's promise of a subnet to a host, by PublicIP. Its host uses it and
never loses it; nobody else takes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network, IPv6Network

from etcd.client import Etcd, EtcdError, KeyValue, NewKey
from ipam import lease as codec
from ipam.etcd_origin import EtcdOrigin, origin_of
from ipam.lease import Lease, LeaseAttributes, LeaseError, same_host
from ipam.lease_candidates import (
    NoFreeSubnetError,
    candidates,
    is_paired,
    may_be_of,
    networks,
    only_address,
)
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.subnet_allocator import (
    Choice,
    Subnets,
    fits,
    own_lease,
    same_lengths,
    successor,
)

__all__ = ["LeaseLostError", "NoFreeSubnetError", "Registry", "no_config"]

DEFAULT_PREFIX = "/coreos.com/network"
MARKER_TTL = 60  # seconds that etcd tells of a release to those who were away
DEFAULT_TTL = 86400  # seconds; flanneld's
CHANGED = 0.05  # seconds until a second look at what changed under our hands
RETRY = (1.0, 30.0)  # seconds: first and longest wait between two tries to renew

log = logging.getLogger("ipam.registry")


class LeaseLostError(EtcdError):
    """A lease is no longer as we last saw it: deleted, expired, changed, or another host's."""


class Registry:
    """The cluster config and the leases below one prefix."""

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

    @property
    def released(self) -> str:
        """What the marker of a released lease begins with; flanneld overlooks these keys."""
        return f"{self.prefix}/released/"

    async def config_text(self) -> str:
        """The cluster config as it is stored. Raises ConfigError when there is none."""
        return (await self._config()).value.decode(errors="replace")

    async def config(self) -> tuple[NetworkConfig, int]:
        """The cluster config, and its revision. Raises ConfigError, EtcdError."""
        found = await self._config()
        return parse_config(found.value), found.mod_revision

    async def _config(self) -> KeyValue:
        found, _ = await self.etcd.get(self.config_key)
        if found is None:
            raise ConfigError(no_config(self.config_key))
        return found

    async def set_config(self, text: str) -> None:
        """Write the cluster config; the caller has checked it."""
        await self.etcd.put(self.config_key, text.encode())

    # -- leases ----------------------------------------------------------------------

    async def leases(self) -> tuple[dict[str, Lease], int]:
        """All leases and reservations by key, and the revision they are of."""
        found, revision = await self.etcd.list(self.subnets)
        return self._decoded(found), revision

    def _decoded(self, found: list[KeyValue]) -> dict[str, Lease]:
        leases = {}
        for kv in found:
            try:
                lease = self.decode(kv)
            except LeaseError as error:
                log.debug("%s: %s", kv.key, error)
                continue
            leases[lease.key] = lease
        return leases

    def decode(self, kv: KeyValue) -> Lease:
        """Read a lease. Raises LeaseError."""
        name = kv.key.removeprefix(self.subnets)
        lease = codec.parse(
            name,
            kv.value,
            reserved=kv.lease == 0,
            since=kv.create_revision,
            origin=EtcdOrigin(kv.mod_revision, kv.lease),
        )
        if lease.key != name:  # flannel's keys have one form: fd05::-64, not fd05:0:0::-64
            raise LeaseError(f"key {name!r} should be {lease.key!r}")
        return lease

    async def acquire(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        *,
        previous: Lease | None = None,
        ttl: int = DEFAULT_TTL,
        require_ours: Callable[[Lease], Awaitable[None]] | None = None,
    ) -> Lease:
        """Take a lease: our own by PublicIP, else the previous subnets, else free ones.

        `ttl` is the seconds it lasts without renewal; `require_ours` may refuse a lease that is
        there under our PublicIP. Raises NoFreeSubnetError, EtcdError, what `require_ours` raises.
        """
        while True:
            found, _ = await self.etcd.list(self.subnets)
            leases = self._decoded(may_be_of(attributes, found)).values()
            own = own_lease(leases, config, attributes, previous)
            if own is not None:
                if require_ours is not None:
                    await require_ours(own)
                lease = await self.take_back(own, attributes, ttl)
                if lease is not None:
                    return lease
                await asyncio.sleep(CHANGED)
                continue
            for lease in leases:
                if lease.reserved or not same_host(lease.attributes, attributes):
                    continue
                wanted = successor(lease, config)
                if wanted is not None:  # a family was switched on or off: keep the other's subnet
                    log.info("giving lease %s up for %s", lease.key, wanted.key)
                    key, previous = self.subnets + lease.key, wanted
                    await self.etcd.delete_if(key, mod_revision=origin_of(lease).revision)
                    found = [kv for kv in found if kv.key != key]
            return await self._create(config, attributes, previous, found, ttl)

    async def take_back(
        self, own: Lease, attributes: LeaseAttributes, ttl: int, *, attach_anew: bool = False
    ) -> Lease | None:
        """Go on with a lease that is ours, with this TTL; None when it changed meanwhile.

        With `attach_anew` its key is attached to an etcd lease that nobody else knows.
        """
        granted = 0
        if origin_of(own).etcd_lease and not attach_anew:
            granted = await self.etcd.keep_alive(origin_of(own).etcd_lease)
            if not granted:
                return None  # it has just expired, and its key with it
        if own.reserved or granted == ttl:
            if codec.format_value(own.attributes) == codec.format_value(attributes):
                return own  # as written: udp has no name in etcd
            return await self._write(own, attributes, origin_of(own).etcd_lease)
        etcd_lease = await self.etcd.grant(ttl)  # flanneld's, or of another --subnet-lease-ttl
        try:
            lease = await self._write(own, attributes, etcd_lease)
        except BaseException:
            await asyncio.shield(self._forget(etcd_lease))
            raise
        if lease is None:
            await self._forget(etcd_lease)
        return lease

    async def _create(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: Lease | None,
        found: list[KeyValue],
        ttl: int,
    ) -> Lease:
        held = self._held(found)
        wanted = candidates(config, held, previous)  # refuses before anything is written
        etcd_lease = await self.etcd.grant(ttl)
        try:
            while True:
                lease, found = await self._create_one(wanted, attributes, etcd_lease)
                if lease is not None:
                    if is_paired(lease, wanted) and same_lengths(config, held):
                        return lease  # the compare of its key has guarded all of it
                    if await self._is_first(lease):
                        return lease
                    await self.etcd.delete_if(
                        self.subnets + lease.key, mod_revision=origin_of(lease).revision
                    )
                    found, _ = await self.etcd.list(self.subnets, keys_only=True)
                held = self._held(found)
                wanted = candidates(config, held, previous)
        except BaseException:
            await asyncio.shield(self._forget(etcd_lease))
            raise

    async def _create_one(
        self, wanted: list[Choice], attributes: LeaseAttributes, etcd_lease: int
    ) -> tuple[Lease | None, list[KeyValue]]:
        """Create the first that is still free, or tell which keys there are now."""
        value = codec.format_value(attributes).encode()
        subnets = [choice.subnets for choice in wanted]
        keys = [self.subnets + codec.format_key(*each) for each in subnets]
        bases = map(self._same_base, subnets)
        news = [NewKey(key, value, base) for key, base in zip(keys, bases, strict=True)]
        done = await self.etcd.put_first_absent(news, self.subnets, lease=etcd_lease)
        if done.key is None:
            return None, list(done.keys)
        v4, v6 = codec.parse_key(done.key.removeprefix(self.subnets))
        origin = EtcdOrigin(done.revision, etcd_lease)
        return Lease(v4, v6, attributes, False, origin, done.revision), []

    def _held(self, found: list[KeyValue]) -> list[Subnets]:
        """All subnets that are named by a key, whatever its value is worth."""
        held = []
        for kv in found:
            try:
                held.append(codec.parse_key(kv.key.removeprefix(self.subnets)))
            except LeaseError:
                continue
        return held

    def _same_base(self, subnets: Subnets) -> tuple[str, ...]:
        """Prefix of every key whose IPv4 subnet begins where ours does."""
        return (f"{self.subnets}{subnets[0].network_address}-",) if subnets[0] else ()

    async def _is_first(self, lease: Lease) -> bool:
        """Whether nobody who was there before us holds a part of our subnets."""
        found, _ = await self.etcd.list(self.subnets, keys_only=True)
        older = [kv for kv in found if kv.create_revision < origin_of(lease).revision]
        return not any(
            (mine is not None and theirs is not None and mine.overlaps(theirs))
            for held in self._held(older)
            for mine, theirs in zip((lease.subnet, lease.ipv6_subnet), held, strict=True)
        )

    async def _write(
        self, lease: Lease, attributes: LeaseAttributes, etcd_lease: int
    ) -> Lease | None:
        """Put a lease over exactly what we saw; None when it is no longer that."""
        revision = await self.etcd.put_if(
            self.subnets + lease.key,
            codec.format_value(attributes).encode(),
            mod_revision=origin_of(lease).revision,
            lease=etcd_lease,
        )
        if revision is None:
            return None
        return Lease(
            lease.subnet,
            lease.ipv6_subnet,
            attributes,
            etcd_lease == 0,
            EtcdOrigin(revision, etcd_lease),
            lease.since,
        )

    async def update(self, lease: Lease, attributes: LeaseAttributes) -> Lease:
        """Publish new attributes in a lease of ours. Raises LeaseLostError, EtcdError."""
        try:
            updated = await self._write(lease, attributes, origin_of(lease).etcd_lease)
        except EtcdError as error:
            if "lease not found" in str(error):
                raise LeaseLostError(f"lease {lease.key} has expired") from None
            raise
        if updated is None:
            raise LeaseLostError(f"lease {lease.key} is no longer as we last saw it")
        return updated

    async def keep_alive(self, lease: Lease) -> None:
        """Renew a lease for as long as it lives; returns when its etcd lease is gone.

        Goes on through outages of any length and kind: only etcd itself says that a lease
        is over, because it expired or because etcd was started empty. Then acquire it
        again. A reservation needs no renewing: waits for ever.
        """
        if origin_of(lease).etcd_lease == 0:
            await asyncio.Event().wait()
        said, pause = "", RETRY[0]
        while True:
            try:
                ttl = await self.etcd.keep_alive(origin_of(lease).etcd_lease)
            except EtcdError as error:
                if said != str(error):
                    log.warning("renewing lease %s: %s; trying on", lease.key, error)
                    said = str(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
                pause = min(pause * 2, RETRY[1])
                continue
            if ttl == 0:
                return
            if said:
                log.info("lease %s is renewed again", lease.key)
            said, pause = "", RETRY[0]
            # hosts that started together drift apart
            await asyncio.sleep(ttl / 3 * random.uniform(0.8, 1))  # noqa: S311

    async def release(self, lease: Lease) -> bool:
        """Give a lease back if it is still as we last saw it; says whether it was."""
        released = await self._release(lease.key, origin_of(lease).revision)
        if released and origin_of(lease).etcd_lease:
            await self._forget(origin_of(lease).etcd_lease)
        return released

    async def release_subnet(self, subnet: IPv4Network | None, ipv6: IPv6Network | None) -> bool:
        """Give back whoever's lease or reservation of these subnets; False: there was none."""
        return await self._release(codec.format_key(subnet, ipv6), None)

    async def _release(self, key: str, revision: int | None) -> bool:
        """Delete a lease's key, and say that it was on purpose.

        A key that merely vanishes has expired, and its host may be alive behind a broken
        network; one that was released has a marker beside it, for a minute.
        """
        marker_lease = await self.etcd.grant(MARKER_TTL)
        released = await self.etcd.delete_if(
            self.subnets + key,
            mod_revision=revision,
            marker=self.released + key,
            lease=marker_lease,
        )
        if not released:
            await self._forget(marker_lease)
        return released

    async def reserve(
        self, subnet: IPv4Network | None, ipv6: IPv6Network | None, public_ip: str
    ) -> Lease:
        """Promise subnets to the host with this address, for good.

        The lease that this host already has of them becomes a reservation. Raises LeaseError
        when they, or a part of them, are another's or none of the network's; EtcdError.
        """
        attributes = only_address(public_ip)
        key = codec.format_key(subnet, ipv6)
        config, _ = await self.config()
        if not fits(config, subnet, ipv6):
            raise LeaseError(f"{key.replace('-', '/')} is no subnet of {networks(config)}")
        found, _ = await self.etcd.list(self.subnets)
        there = self._decoded(found).get(key)
        if there is not None and same_host(there.attributes, attributes):
            if there.reserved:
                return there
            lease = await self._write(there, there.attributes, 0)
        else:
            for held in self._held(found):
                if any(
                    a is not None and b is not None and a.overlaps(b)
                    for a, b in zip(held, (subnet, ipv6), strict=True)
                ):
                    raise LeaseError(f"{key.replace('-', '/')} is held: {codec.format_key(*held)}")
            lease = await self._write(Lease(subnet, ipv6), attributes, 0)
        if lease is None:
            raise LeaseError(f"{key.replace('-', '/')}: somebody was faster; look again")
        return lease

    async def _forget(self, etcd_lease: int) -> None:
        try:
            await self.etcd.revoke(etcd_lease)
        except EtcdError as error:
            log.debug("revoking etcd lease %x: %s", etcd_lease, error)  # it expires by itself


def no_config(key: str) -> str:
    """The line for a cluster without a config."""
    example = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
    return f"no cluster config at {key}: write one with flatmesh config set '{example}'"
