"""This host's own lease: find it, take it, keep it, notice its loss.

The lease view tells what etcd holds under our key; the keeper compares that with what we
believe to own, in every turn:

    key as we wrote it          fine
    key gone                    somebody deleted it, or etcd lost it: take the same subnet again
    key is another host's       a conflict: say so loudly, stop renewing, take nothing away.
                                Pods keep running; when the other host lets go, we take it back
    key ours, attributes old    publish the new ones, comparing mod_revision

Renewing is a task of its own: keepalives of one etcd lease, never a put, so that a renewal
can't overwrite anybody (flanneld's does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.network import NetworkConfig
from ipam.registry import Registry

log = logging.getLogger("agent.lease")
"""Called with what our lease says now; returns what it should say."""
AttributesFor = Callable[[LeaseAttributes | None], LeaseAttributes]


class LeaseKeeper:
    """Holds this host's lease. Used by one asyncio task."""

    def __init__(self, registry: Registry, ttl: int, wake: Callable[[], None]) -> None:
        self.registry = registry
        self.ttl = ttl
        self.wake = wake
        self.own: Lease | None = None
        self.problem: str | None = "no lease yet"
        self._renewal: asyncio.Task[None] | None = None

    async def ensure(
        self,
        leases: Mapping[str, Lease],
        revision: int,
        config: NetworkConfig,
        underlay: Underlay,
        attributes_for: AttributesFor,
        previous: Lease | None,
    ) -> Lease | None:
        """Make sure of the lease, given the snapshot; returns it, or None when there is none.

        `previous` is the subnet of the last run, which is asked for again. Raises EtcdError
        and NoFreeSubnetError: the caller tries again in a later turn.
        """
        if self.own is not None:
            there = leases.get(self.own.key)
            if there is not None and _is_held_by(there, underlay, self.own):
                return await self._publish(there, attributes_for)
            if there is not None and revision >= self.own.revision:
                self._conflict(there)
                return self.own
            if there is None and revision < self.own.revision:
                return self.own  # the snapshot is older than our own write
            if there is None:
                log.warning("our lease %s is gone from etcd: taking it again", self.own.key)
                previous = self.own
        known = held_by(leases, underlay)
        attributes = attributes_for(known.attributes if known else None)
        lease = await self.registry.acquire(config, attributes, previous=previous, ttl=self.ttl)
        log.info("lease %s is ours", lease.key)
        self._hold(lease)
        return lease

    async def _publish(self, there: Lease, attributes_for: AttributesFor) -> Lease:
        wanted = attributes_for(there.attributes)
        if wanted == there.attributes:
            if self.problem is not None or self.own != there:
                self._hold(there)
            return there
        log.info("publishing new attributes in lease %s", there.key)
        lease = await self.registry.update(there, wanted)
        self._hold(lease)
        return lease

    def _hold(self, lease: Lease) -> None:
        renewing = self.own is not None and self.own.etcd_lease == lease.etcd_lease
        self.own, self.problem = lease, None
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


def held_by(leases: Mapping[str, Lease], underlay: Underlay) -> Lease | None:
    """The lease published under this host's address, if there is one."""
    for lease in leases.values():
        if _is_held_by(lease, underlay, None):
            return lease
    return None


def _is_held_by(lease: Lease, underlay: Underlay, own: Lease | None) -> bool:
    """Whether a lease is under our address, or under the one that we last published."""
    theirs = lease.attributes
    ours = [(underlay.public_ip, underlay.public_ipv6)]
    if own is not None:
        ours.append((own.attributes.public_ip, own.attributes.public_ipv6))
    return any(
        (ipv4 is not None and theirs.public_ip == ipv4)
        or (theirs.public_ip is None and ipv6 is not None and theirs.public_ipv6 == ipv6)
        for ipv4, ipv6 in ours
    )
