# SPDX-License-Identifier: Apache-2.0
"""Leases in etcd, as flanneld keeps them: fits `ipam.lease_source.LeaseSource`.

`ipam.lease_view` follows all leases, `ipam.registry` writes, `ipam.lease_holder` holds this
host's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

from etcd.client import Etcd, EtcdError
from ipam.etcd_origin import origin_of
from ipam.host_records import HostRecord, HostRecordWriter
from ipam.lease import Lease, LeaseAttributes
from ipam.lease_holder import LeaseHolder
from ipam.lease_memory import LeaseMemory
from ipam.lease_question import answer
from ipam.lease_source import LeaseRequest, LeaseSourceError, Snapshot
from ipam.lease_view import LeaseView
from ipam.network import NetworkConfig
from ipam.registry import DEFAULT_TTL, Registry

HOLD_TIMEOUT = 30.0
"""Seconds for all requests of one `hold`; an etcd that is stopped, not dead, answers none."""

Result = TypeVar("Result")

log = logging.getLogger("ipam.lease")


class EtcdLeaseSource:
    """The leases below one prefix in etcd."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        memory: Path,
        *,
        ttl: int = DEFAULT_TTL,
        on_copied: Callable[[], None] = lambda: None,
    ) -> None:
        """Use a connection that the caller opens and closes.

        `memory` is the file that says which lease was ours; `ttl` is the seconds that our lease
        lives without renewal; `on_copied` is called when another host turned out to have the same
        lease, and so the same state. It may raise OSError.
        """
        self._registry = Registry(etcd, prefix)
        self._changed = asyncio.Event()
        self._view = LeaseView(self._registry, asked=self._asked)
        self._answers: set[asyncio.Task[None]] = set()
        self._record = HostRecordWriter(etcd, prefix)
        self._holder = LeaseHolder(
            self._registry, ttl, LeaseMemory(memory), self._changed.set, on_copied
        )

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Follow all leases. See `LeaseSource`."""
        views = aiter(self._view)
        following = asyncio.ensure_future(anext(views))
        last: Snapshot | None = None
        try:
            while True:
                expiry = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({following, expiry}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    expiry.cancel()
                if following.done():
                    last = following.result()
                    following = asyncio.ensure_future(anext(views))
                    self._holder.leases = last.leases
                    yield last
                    continue
                self._changed.clear()
                if last is not None:
                    # our lease has run out: `hold` has to be called, whatever else is as it was
                    yield replace(last, changed=frozenset(), expired={}, released=frozenset())
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await following

    def _asked(self, key: str) -> None:
        """Another host asks who holds a lease."""
        if self._holder.holds(key):
            task = asyncio.create_task(self._answer(key), name="answer who holds the lease")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, key: str) -> None:
        try:
            await answer(self._registry.etcd, self._registry.prefix, key)
        except EtcdError as error:
            log.warning("could not answer who holds lease %s: %s", key, error)

    async def check(self) -> None:
        """Ask etcd for the cluster config. See `LeaseSource`."""
        await _in_time(self._registry.etcd.get(self._registry.config_key))

    def expected(
        self,
        leases: Mapping[str, Lease],
        config: NetworkConfig,
        host: LeaseAttributes,
        previous: Lease | None,
    ) -> Lease | None:
        """The lease that would be kept. See `LeaseSource`."""
        return self._holder.expected(leases, config, host, previous)

    def public_addresses(self) -> tuple[IPv4Address | None, IPv6Address | None]:
        """Etcd has no place for them. See `LeaseSource`."""
        return None, None

    async def hold(self, request: LeaseRequest) -> Lease:
        """Hold this host's lease. See `LeaseSource`."""
        return await _in_time(self._holder.ensure(request))

    async def held_before(self) -> Lease | None:
        """The lease of the last run. See `LeaseSource`."""
        if not self._holder.memory.path.exists():
            return None  # etcd need not be there
        leases, _ = await _in_time(self._registry.leases())
        return self._holder.memory.recall(leases)

    async def release(self, lease: Lease) -> None:
        """Give a lease back. See `LeaseSource`."""
        await _in_time(self._registry.release(lease))
        self._holder.memory.forget()

    async def announce(self, record: HostRecord) -> None:
        """Write this host's record. See `LeaseSource`."""
        own = self._holder.own
        if own is not None and self._holder.problem is None:
            await _in_time(self._record.write(own, record, self._view.hosts.get(own.key)))

    def hosts(self) -> Mapping[str, HostRecord]:
        """All hosts' records. See `LeaseSource`."""
        return self._view.hosts.copy()

    def changed(self) -> Mapping[str, float]:
        """When leases changed. See `LeaseSource`."""
        return self._view.changed.copy()

    async def time_left(self) -> float | None:
        """Ask etcd. See `LeaseSource`."""
        own = self._holder.own
        attached = origin_of(own).etcd_lease if own is not None else 0
        return await _in_time(self._registry.etcd.time_to_live(attached)) if attached else None

    def connect_anew(self) -> None:
        """Connect anew. See `LeaseSource`."""
        self._registry.etcd.renew_connection()

    def problem(self) -> str | None:
        """Why the lease is not held. See `LeaseSource`."""
        # an etcd that goes away later is no problem: a lease that is held stays held
        return (None if self._view.listed else self._view.trouble) or self._holder.problem

    async def close(self) -> None:
        """Stop renewing. See `LeaseSource`."""
        await self._holder.close()


async def _in_time(work: Awaitable[Result]) -> Result:
    """Raise LeaseSourceError for every way in which etcd can fail."""
    try:
        async with asyncio.timeout(HOLD_TIMEOUT):
            return await work
    except TimeoutError:
        raise LeaseSourceError(f"etcd has not answered for {HOLD_TIMEOUT:.0f} s") from None
    except EtcdError as error:
        raise LeaseSourceError(str(error)) from error
