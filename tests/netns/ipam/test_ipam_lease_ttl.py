# SPDX-License-Identifier: Apache-2.0
"""A daemon that is started again with another --subnet-lease-ttl."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from etcd.client import Etcd
from ipam.etcd_origin import origin_of
from ipam.etcd_source import EtcdLeaseSource
from ipam.lease import Lease, LeaseAttributes
from ipam.lease_source import LeaseRequest
from lab.etcd_server import EtcdServer
from tests.netns.ipam.registry_hosts import SMALL, host

CONFIG = '{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.3.0"}'


def udp() -> LeaseAttributes:
    return LeaseAttributes(host(1).public_ip, backend_type="udp")


@pytest.mark.parametrize("attributes", [host(1), udp()], ids=["vxlan", "udp"])
def test_another_ttl_at_a_restart_is_applied_to_the_lease_that_is_there(
    etcd: EtcdServer, tmp_path: Path, attributes: LeaseAttributes
) -> None:
    etcd.ctl("put", "/coreos.com/network/config", CONFIG)

    async def wanted(previous: LeaseAttributes | None) -> LeaseAttributes:
        del previous
        return attributes

    async def one_run(ttl: int) -> tuple[Lease, int]:
        """The lease that a daemon holds, and how long it lives without renewal."""
        async with asyncio.timeout(60), Etcd([etcd.client_url]) as client:
            prefix = "/coreos.com/network"
            source = EtcdLeaseSource(client, prefix, tmp_path / "lease.json", ttl=ttl)
            await anext(aiter(source.snapshots()))
            request = LeaseRequest(SMALL, attributes.public_ip, None, wanted, None)
            lease = await source.hold(request)
            await source.close()
            return lease, await client.keep_alive(origin_of(lease).etcd_lease)

    first, lives = asyncio.run(one_run(60))
    assert lives == 60
    again, lives = asyncio.run(one_run(60))
    assert (lives, origin_of(again)) == (60, origin_of(first))  # nothing was written
    longer, lives = asyncio.run(one_run(90))
    assert lives == 90
    assert longer.key == first.key
    shorter, lives = asyncio.run(one_run(30))
    assert (lives, shorter.key) == (30, first.key)
