"""This host's own lease in etcd: find it, take it, keep it, notice its loss.

The lease view tells what etcd holds under our key; the holder compares that with the lease it
holds, at every call of `ensure`:

    key as we wrote it          nothing to do
    key gone                    somebody deleted it, or etcd lost it: take the same subnet again
    key is another host's       a conflict: log an error, stop renewing, take nothing away.
                                Pods keep running; we take it back when the other host's is gone
    key ours, attributes old    publish the new ones, comparing mod_revision

Renewing is a task of its own: keepalives of one etcd lease, never a put, so that a renewal
can't overwrite anybody (flanneld's does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from ipam.etcd_origin import origin_of
from ipam.lease import (
    Lease,
    LeaseAttributes,
    format_value,
    held_by,
    is_held_by,
    same_host,
)
from ipam.lease_memory import LeaseMemory
from ipam.lease_question import LeaseHeldError, ask_holder
from ipam.lease_source import LeaseRequest
from ipam.network import NetworkConfig
from ipam.registry import Registry
from ipam.subnet_allocator import fits, own_lease, successor

log = logging.getLogger("ipam.lease")
ASK_INTERVAL = 30.0
"""Seconds until another host that holds the lease under our address is asked again."""
SILENCE = 300.0
"""Seconds without an answer after which a host that has answered before is taken for gone."""


class LeaseHolder:
    """Holds this host's lease. Used by one asyncio task."""

    def __init__(
        self, registry: Registry, ttl: int, memory: LeaseMemory, wake: Callable[[], None]
    ) -> None:
        self.registry = registry
        self.ttl = ttl
        self.memory = memory
        self.wake = wake
        """Called when our etcd lease has expired: `ensure` has to be called again."""
        self.leases: Mapping[str, Lease] = {}
        """All leases as last seen; kept up by whoever follows them."""
        self.own: Lease | None = None
        self.problem: str | None = "no lease yet"
        self._renewal: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        """Why the lease under our address is not ours."""
        self._ask_again = self._answered = 0.0

    async def ensure(self, request: LeaseRequest) -> Lease:
        """Make sure of the lease; returns it.

        Raises EtcdError, LeaseLostError and NoFreeSubnetError: the caller tries again later.
        """
        previous = request.previous
        if self.own is None:
            self.own = self.memory.recall(self.leases)
        if self.own is not None:
            there = self.leases.get(self.own.key)
            if there is None or origin_of(there).revision < origin_of(self.own).revision:
                # either the view lags behind our own write, or etcd lost it: ask
                there = (await self.registry.leases())[0].get(self.own.key)
            if there is not None and not self._is_ours(there, request):
                self._conflict(there)
                return self.own
            if there is not None and not _must_change(there, request.config):
                lease = await self._go_on(there, request) if self._renewal is None else None
                return lease or await self._publish(there, request)
            if there is None:
                log.warning("our lease %s is gone from etcd: taking it again", self.own.key)
            previous = self.own
        known = held_by(self.leases, request.public_ip, request.public_ipv6) or self.own
        if known is not None and self.own is None:
            await self._require_no_other(known)
        attributes = await request.attributes(known.attributes if known else None)
        lease = await self.registry.acquire(
            request.config, attributes, previous=previous, ttl=self.ttl
        )
        log.info("lease %s is ours", lease.key)
        if self.own is not None and set(self.own.subnets).difference(lease.subnets):
            log.error(
                "subnet %s was taken meanwhile: pods that hold its addresses are cut off "
                "until they are made anew",
                self.own.key,
            )
        self._hold(lease)
        return lease

    def expected(
        self,
        leases: Mapping[str, Lease],
        config: NetworkConfig,
        host: LeaseAttributes,
        previous: Lease | None,
    ) -> Lease | None:
        """The lease that `ensure` would keep now, None when it would take another."""
        known = self.memory.recall(leases)
        if known is not None and not _must_change(known, config):
            return known
        return own_lease(leases.values(), config, host, known or previous)

    def holds(self, key: str) -> bool:
        """Whether this host holds a lease now."""
        return self.own is not None and self.own.key == key and self.problem is None

    async def _require_no_other(self, lease: Lease) -> None:
        """Raise LeaseHeldError when the lease under our address is another host's, which lives.

        It is asked again after a while. Once it has answered, silence counts only when it lasts: a
        daemon that is being restarted is silent, too.
        """
        now = asyncio.get_running_loop().time()
        if self._refusal is None or now > self._ask_again:
            name = await ask_holder(self.registry.etcd, self.registry.prefix, lease.key)
            self._ask_again = now + ASK_INTERVAL
            if name is not None:
                self._answered = now
                address = lease.attributes.public_ip or lease.attributes.public_ipv6
                self._refusal = (
                    f"lease {lease.key} under this host's address {address} is held by another "
                    f"host, {name}, which is alive: give this host an address of its own "
                    "(--public-ip), or stop flatmeshd there"
                )
            elif self._refusal is None or now - self._answered > SILENCE:
                self._refusal = None
                return
        raise LeaseHeldError(self._refusal)

    def _is_ours(self, there: Lease, request: LeaseRequest) -> bool:
        """Whether a lease is under our address, or one that we last published or attached."""
        own = self.own
        attached = origin_of(own).etcd_lease if own is not None else 0
        if attached and attached == origin_of(there).etcd_lease:
            return True
        return is_held_by(there.attributes, request.public_ip, request.public_ipv6) or (
            own is not None and same_host(there.attributes, own.attributes)
        )

    async def _go_on(self, there: Lease, request: LeaseRequest) -> Lease | None:
        """Hold the lease of an earlier run, with the TTL of now; None when it changed meanwhile."""
        attributes = await request.attributes(there.attributes)
        lease = await self.registry.take_back(there, attributes, self.ttl)
        if lease is not None:
            self._hold(lease)
        return lease

    async def _publish(self, there: Lease, request: LeaseRequest) -> Lease:
        wanted = await request.attributes(there.attributes)
        # as written: udp has no name in etcd, so the values may differ where the text doesn't
        if format_value(wanted) == format_value(there.attributes):
            if self.problem is not None or self.own != there:
                self._hold(there)
            return there
        log.info("publishing new attributes in lease %s", there.key)
        lease = await self.registry.update(there, wanted)
        self._hold(lease)
        return lease

    def _hold(self, lease: Lease) -> None:
        attached = origin_of(lease).etcd_lease
        renewing = self.own is not None and origin_of(self.own).etcd_lease == attached
        self.own, self.problem = lease, None
        self.memory.keep(lease)
        if not renewing or self._renewal is None or self._renewal.done():
            self._stop_renewing()
            self._renewal = asyncio.create_task(self._renew(lease), name="renew lease")

    def _conflict(self, there: Lease) -> None:
        assert self.own is not None  # noqa: S101 - callers look first
        holder = there.attributes.public_ip or there.attributes.public_ipv6
        problem = f"lease {there.key} is ours, but etcd says it is {holder}'s"
        if problem != self.problem:
            log.error(
                "%s: not renewing; pods here keep running. Stop one of the two hosts", problem
            )
        self.problem = problem
        self._stop_renewing()

    async def _renew(self, lease: Lease) -> None:
        await self.registry.keep_alive(lease)  # returns when the etcd lease has expired
        log.warning("etcd lease of %s has expired", lease.key)
        self.problem = f"lease {lease.key} has expired, and is taken again when etcd answers"
        self.wake()

    def _stop_renewing(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    async def close(self) -> None:
        """Stop renewing; the lease stays ours until it expires."""
        task, self._renewal = self._renewal, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _must_change(lease: Lease, config: NetworkConfig) -> bool:
    """Whether a family was switched on or off: then the lease gains or loses a subnet.

    A lease that lies outside a changed network is kept: its pods run, and a new one would
    cut them off. The daemon's next start takes one that fits.
    """
    return not fits(config, lease.subnet, lease.ipv6_subnet) and (
        successor(lease, config) is not None
    )
