# SPDX-License-Identifier: Apache-2.0
"""Reservations: used by their host only, and never expiring."""

from __future__ import annotations

import asyncio

import pytest

from ipam.etcd_origin import origin_of
from ipam.lease import LeaseError
from ipam.network import ConfigError
from ipam.registry import NoFreeSubnetError, Registry
from lab.etcd_server import EtcdServer
from tests.netns.ipam.registry_hosts import (
    SMALL,
    TTL,
    config,
    host,
    subnet,
    with_registry,
)


def test_a_reservation_is_used_by_its_host_and_by_nobody_else(etcd: EtcdServer) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        wanted = subnet("10.5.2.0/24")
        reserved = await registry.reserve(wanted, None, "192.168.0.1")
        assert reserved.reserved
        assert await registry.reserve(wanted, None, "192.168.0.1") == reserved  # twice is once
        others = [await registry.acquire(SMALL, host(n), ttl=TTL) for n in (2, 3)]
        assert wanted not in {lease.subnet for lease in others}
        with pytest.raises(NoFreeSubnetError):
            await registry.acquire(SMALL, host(4), ttl=TTL)
        mine = await registry.acquire(SMALL, host(1), ttl=TTL)
        assert mine.subnet == wanted
        assert mine.reserved
        assert origin_of(mine).etcd_lease == 0
        assert mine.attributes == host(1)
        renewing = asyncio.create_task(registry.keep_alive(mine))  # nothing to renew
        updated = await registry.update(mine, host(1, backend_v6_data={"VNI": 3}))
        assert updated.reserved
        again = await registry.acquire(SMALL, host(1, backend_v6_data={"VNI": 3}), ttl=TTL)
        assert again == updated
        assert not renewing.done()
        renewing.cancel()

    with_registry(etcd, story)


def test_a_host_can_have_its_own_lease_reserved(etcd: EtcdServer) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        reserved = await registry.reserve(lease.subnet, None, "192.168.0.1")
        assert reserved.reserved
        assert reserved.attributes == host(1)  # peers go on reaching it
        etcd.ctl("lease", "revoke", f"{origin_of(lease).etcd_lease:x}")
        assert lease.key in (await registry.leases())[0]

    with_registry(etcd, story)


@pytest.mark.parametrize(
    ("wanted", "address", "part"),
    [
        ("10.5.9.0/24", "192.168.0.2", "held"),
        ("10.6.9.0/24", "192.168.0.1", "no subnet of 10.5.0.0/16"),
        ("10.5.9.0/25", "192.168.0.1", "no subnet of 10.5.0.0/16"),
        ("10.5.9.0/24", "nonsense", "public IP"),
    ],
)
def test_reservations_that_are_refused(
    etcd: EtcdServer, wanted: str, address: str, part: str
) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        await registry.reserve(subnet("10.5.9.0/24"), None, "192.168.0.1")
        with pytest.raises(LeaseError, match=part):
            await registry.reserve(subnet(wanted), None, address)
        assert await registry.release_subnet(subnet("10.5.9.0/24"), None)
        assert not await registry.release_subnet(subnet("10.5.9.0/24"), None)

    with_registry(etcd, story)


def test_no_config_and_a_broken_one_are_one_line(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        with pytest.raises(ConfigError, match=r"/coreos\.com/network/config: write one with"):
            await registry.config()
        await registry.set_config("{}")
        with pytest.raises(ConfigError, match="Network is missing"):
            await registry.config()
        await registry.set_config('{"Network":"10.5.0.0/16"}')
        assert (await registry.config())[0] == config()
        assert await registry.config_text() == '{"Network":"10.5.0.0/16"}'

    with_registry(etcd, story)
