# SPDX-License-Identifier: Apache-2.0
"""This host's own lease in etcd: find it, take it, keep it, notice its loss.

The lease view tells what etcd holds under our key; the holder compares that with the lease it
holds, at every call of `ensure`:

    key as we wrote it          nothing to do
    key gone                    somebody deleted it, or etcd lost it: take the same subnet again
    key is another host's       a conflict: log an error, stop renewing, take nothing away.
                                Pods keep running; we take it back when the other host's is gone,
                                and another one when that host says that it holds it
    key ours, and written by    a clone of this host: write again, and take another subnet after
    another host                a few lost rounds (`ipam.lease_dispute`)
    key ours, attributes old    publish the new ones, comparing mod_revision

Renewing is a task of its own: keepalives of one etcd lease, never a put, so that a renewal
can't overwrite anybody (flanneld's does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from etcd.client import EtcdError
from ipam.etcd_origin import origin_of
from ipam.lease import (
    Lease,
    LeaseAttributes,
    format_value,
    held_by,
    is_held_by,
    same_host,
)
from ipam.lease_dispute import ASK_INTERVAL, LeaseDispute
from ipam.lease_memory import LeaseMemory
from ipam.lease_source import LeaseRequest
from ipam.network import NetworkConfig
from ipam.registry import LeaseLostError, Registry
from ipam.subnet_allocator import fits, own_lease, successor

log = logging.getLogger("ipam.lease")


class LeaseHolder:
    """Holds this host's lease. Used by one asyncio task."""

    def __init__(
        self,
        registry: Registry,
        ttl: int,
        memory: LeaseMemory,
        wake: Callable[[], None],
        on_copied: Callable[[], None],
    ) -> None:
        self.registry = registry
        self.ttl = ttl
        self.memory = memory
        self.wake = wake
        """Called when our etcd lease has expired: `ensure` has to be called again."""
        self.on_copied = on_copied
        """Called when another host turned out to have this one's lease, and so its state."""
        self.dispute = LeaseDispute(registry)
        self.leases: Mapping[str, Lease] = {}
        """All leases as last seen; kept up by whoever follows them."""
        self.own: Lease | None = None
        self.problem: str | None = "no lease yet"
        self._renewal: asyncio.Task[None] | None = None
        self._release: asyncio.Task[None] | None = None
        self._next_look: asyncio.TimerHandle | None = None

    async def ensure(self, request: LeaseRequest) -> Lease:
        """Make sure of the lease; returns it.

        Raises EtcdError, LeaseLostError and NoFreeSubnetError: the caller tries again later.
        """
        lease = await self._ensure(request)
        unused = [
            one
            for one in self.leases.values()
            if one.key != lease.key
            and not one.reserved
            and is_held_by(one.attributes, request.public_ip, request.public_ipv6)
        ]
        if unused and self.problem is None and (self._release is None or self._release.done()):
            self._release = asyncio.create_task(self._release_unused(unused), name="release")
        return lease

    async def _ensure(self, request: LeaseRequest) -> Lease:
        previous = request.previous
        if self.own is None:
            self.own = await self._recall(request)
        if self.own is not None:
            there = self.leases.get(self.own.key)
            if there is None or origin_of(there).revision < origin_of(self.own).revision:
                # either the view lags behind our own write, or etcd lost it: ask
                there = (await self.registry.leases())[0].get(self.own.key)
            if there is not None and await self._gives_way(there, request):
                raise LeaseLostError(f"lease {there.key} is another host's")
            if there is not None and not self._is_ours(there, request):
                return self.own
            if there is not None and not _must_change(there, request.config):
                lease = await self._go_on(there, request) if self._renewal is None else None
                return lease or await self._publish(there, request)
            if there is None:
                log.warning("our lease %s is gone from etcd: taking it again", self.own.key)
            previous = self.own
        known = held_by(self.leases, request.public_ip, request.public_ipv6) or self.own
        attributes = await request.attributes(known.attributes if known else None)
        lease = await self.registry.acquire(
            request.config,
            attributes,
            previous=previous,
            ttl=self.ttl,
            require_ours=self.dispute.require_no_holder if self.own is None else None,
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

    async def _recall(self, request: LeaseRequest) -> Lease | None:
        """The lease of the last run; where the memory may be another host's, its holder is asked.

        When nobody answers it is ours from now on, attached to a new etcd lease: a host that the
        memory was copied from does not find it under its own any more.
        """
        lease = self.memory.recall(self.leases)
        if lease is None or not self.memory.doubted:
            return lease
        name = await self.dispute.holder(lease)
        if name is not None:
            self._leave(
                lease, f"is held by another host, {name}, which this host's state was copied from"
            )
            return None
        attributes = await request.attributes(lease.attributes)
        taken = await self.registry.take_back(lease, attributes, self.ttl, attach_anew=True)
        if taken is None:
            raise LeaseLostError(f"lease {lease.key} has changed meanwhile")
        self._hold(taken)
        return taken

    async def _gives_way(self, there: Lease, request: LeaseRequest) -> bool:
        """Whether another host has our lease, and keeps it: then we have left it."""
        if not self._is_ours(there, request):
            self._conflict(there)
            name = await self.dispute.holder_now_and_then(there)
            if name is None:
                self._look_again()
                return False
            self._leave(there, f"is held by another host now, {name}")
            return True
        if self._is_written_by_another(there, request) and await self.dispute.lose_round():
            self._leave(there, f"is written by another host, too, {_address(there)}")
            return True
        return False

    def _is_written_by_another(self, there: Lease, request: LeaseRequest) -> bool:
        """Whether our lease, which we keep alive, was given another host's address since."""
        own = self.own
        return (
            own is not None
            and self._renewal is not None
            and origin_of(there).revision > origin_of(own).revision
            and not is_held_by(there.attributes, request.public_ip, request.public_ipv6)
            and not same_host(there.attributes, own.attributes)
        )

    def _leave(self, lease: Lease, why: str) -> None:
        """Another host has this lease: this one takes another subnet, MAC and key."""
        log.error(
            "lease %s %s: this host takes another subnet, and pods made here before are cut off "
            "until they are made anew",
            lease.key,
            why,
        )
        self._stop_renewing()
        self.own, self.problem = None, f"lease {lease.key} {why}"
        self.memory.forget()
        self.on_copied()

    def _look_again(self) -> None:
        """Have `ensure` called when another host may be asked again."""
        loop = asyncio.get_running_loop()
        if self._next_look is None or self._next_look.when() <= loop.time():
            self._next_look = loop.call_later(ASK_INTERVAL, self.wake)

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

    async def _release_unused(self, leases: Sequence[Lease]) -> None:
        """Give back what is under our address and nobody uses: peers serve one lease of a host."""
        for lease in leases:
            try:
                name = await self.dispute.holder(lease)
                if name is not None:
                    log.error("lease %s is under our address, but %s holds it", lease.key, name)
                    await asyncio.sleep(ASK_INTERVAL)  # until the next call may ask again
                elif await self.registry.release(lease):
                    log.info("released lease %s, which this host had before", lease.key)
            except EtcdError as error:
                log.warning("lease %s, which this host had before: %s", lease.key, error)

    def _conflict(self, there: Lease) -> None:
        assert self.own is not None  # noqa: S101 - callers look first
        problem = f"lease {there.key} is ours, but etcd says it is {_address(there)}'s"
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
        tasks = [task for task in (self._renewal, self._release) if task is not None]
        self._renewal = self._release = None
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _address(lease: Lease) -> str:
    return str(lease.attributes.public_ip or lease.attributes.public_ipv6)


def _must_change(lease: Lease, config: NetworkConfig) -> bool:
    """Whether a family was switched on or off: then the lease gains or loses a subnet.

    A lease that lies outside a changed network is kept: its pods run, and a new one would
    cut them off. The daemon's next start takes one that fits.
    """
    return not fits(config, lease.subnet, lease.ipv6_subnet) and (
        successor(lease, config) is not None
    )
