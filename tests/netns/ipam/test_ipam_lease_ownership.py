# SPDX-License-Identifier: Apache-2.0
"""Who owns a lease: renewals, deleted keys, outages, partitions, joins that break off."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from etcd.client import EtcdError
from ipam.etcd_origin import origin_of
from ipam.lease import Lease, format_value
from ipam.registry import LeaseLostError, Registry
from lab.etcd_server import EtcdServer
from tests.netns.ipam.registry_hosts import (
    SMALL,
    TTL,
    host,
    registry_of,
    subnet,
    with_registry,
)


def test_a_renewal_writes_no_key_so_it_can_not_take_one(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        # somebody writes another host's lease over ours, as flanneld's renewal does
        key = f"/coreos.com/network/subnets/{lease.key}"
        etcd.ctl("put", key, format_value(host(2)))
        renewing = asyncio.create_task(registry.keep_alive(lease))
        async with asyncio.timeout(20):
            while etcd.requests().get("LeaseKeepAlive", 0) < 1:  # noqa: ASYNC110 - its metric
                await asyncio.sleep(0.02)
        there, _ = await registry.leases()
        assert there[lease.key].attributes == host(2)
        with pytest.raises(LeaseLostError, match=lease.key):
            await registry.update(lease, host(1))
        assert not await registry.release(lease)
        assert (await registry.leases())[0] == there
        renewing.cancel()

    with_registry(etcd, story)


def test_a_deleted_key_is_noticed_by_every_write_and_can_be_taken_again(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        etcd.ctl("del", f"/coreos.com/network/subnets/{lease.key}")
        with pytest.raises(LeaseLostError):
            await registry.update(lease, host(1))
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again == lease
        assert origin_of(again).revision > origin_of(lease).revision

    with_registry(etcd, story)


def test_keep_alive_keeps_alive_and_returns_when_the_lease_is_gone(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=5)
        other = await registry.acquire(SMALL, host(2), ttl=5)
        renewing = asyncio.create_task(registry.keep_alive(lease))
        async with asyncio.timeout(30):  # the one that isn't renewed ends, ours outlives it
            while other.key in (await registry.leases())[0]:  # noqa: ASYNC110 - etcd's clock
                await asyncio.sleep(0.1)
        assert lease.key in (await registry.leases())[0]
        assert not renewing.done()
        etcd.ctl("lease", "revoke", f"{origin_of(lease).etcd_lease:x}")
        async with asyncio.timeout(30):
            await renewing
        with pytest.raises(LeaseLostError, match=r"has expired|no longer"):
            await registry.update(lease, host(1, backend_v6_data={}))

    with_registry(etcd, story)


def test_keep_alive_goes_on_after_an_outage(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=10)
        etcd.stop()
        renewing = asyncio.create_task(registry.keep_alive(lease))
        with pytest.raises(EtcdError):
            await registry.leases()
        assert not renewing.done()
        etcd.start()
        async with asyncio.timeout(30):
            while not etcd.requests().get("LeaseKeepAlive"):  # noqa: ASYNC110 - its metric
                await asyncio.sleep(0.05)
        assert lease.key in (await registry.leases())[0]
        assert not renewing.done()
        renewing.cancel()

    with_registry(etcd, story)


def test_an_etcd_started_empty_ends_the_lease_and_the_same_subnet_is_taken_again(
    etcd: EtcdServer,
) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        etcd.wipe()
        etcd.start()
        async with asyncio.timeout(30):
            await registry.keep_alive(lease)  # returns: etcd doesn't know it
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again == lease

    with_registry(etcd, story)


def test_after_a_partition_longer_than_the_lease_another_host_may_have_the_subnet(
    etcd: EtcdServer,
) -> None:
    """Only our way to etcd is cut: it goes on at another address, where others find it."""
    hidden = replace(etcd, client_url=etcd.client_url.replace("2379", "4379"))
    previous = Lease(subnet("10.5.2.0/24"), None)

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), previous=previous, ttl=5)
        renewing = asyncio.create_task(registry.keep_alive(lease))
        etcd.stop()
        hidden.start()
        async with registry_of(hidden) as others, asyncio.timeout(40):
            while lease.key in (await others.leases())[0]:  # noqa: ASYNC110 - etcd's clock
                await asyncio.sleep(0.1)
            taken = await others.acquire(SMALL, host(2), previous=previous, ttl=TTL)
        assert taken.subnet == lease.subnet
        assert not renewing.done()  # it stays ours until etcd says otherwise
        hidden.stop()
        etcd.start()
        async with asyncio.timeout(40):
            await renewing
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again.subnet != lease.subnet
        there, _ = await registry.leases()
        assert there[taken.key].attributes == host(2)

    with_registry(etcd, story)
    hidden.stop()


def test_a_cancelled_join_leaves_nothing(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        for step in range(1, 12):
            joining = asyncio.create_task(registry.acquire(SMALL, host(1), ttl=TTL))
            for _ in range(step):
                await asyncio.sleep(0)
            joining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await joining
        lease = await registry.acquire(SMALL, host(2), ttl=TTL)
        there, _ = await registry.leases()
        # at most our own, from a transaction that was on its way; never two
        assert len([k for k, held in there.items() if held.attributes == host(1)]) <= 1
        assert there[lease.key] == lease

    with_registry(etcd, story)
