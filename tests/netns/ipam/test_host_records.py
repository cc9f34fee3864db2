# SPDX-License-Identifier: Apache-2.0
"""Hosts' names and readiness in a real etcd, beside their leases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from etcd.client import Etcd
from ipam import host_records
from ipam.etcd_source import EtcdLeaseSource
from ipam.host_records import HostRecord, HostRecordWriter, list_host_records, parse_record
from ipam.lease import Lease, LeaseAttributes
from ipam.lease_source import LeaseRequest
from ipam.registry import Registry
from lab.etcd_server import EtcdServer
from tests.netns.ipam.lease_reader import CONFIG, PREFIX, reading, run
from tests.netns.ipam.registry_hosts import TTL, config, host, subnet

RECORD = HostRecord("node7", "0.1.0", "0123abc", 1_800_000_000, ready=True)


def request_of(number: int) -> LeaseRequest:
    async def attributes(_: LeaseAttributes | None) -> LeaseAttributes:
        return host(number)

    return LeaseRequest(config(), host(number).public_ip, None, attributes)


def test_a_record_is_seen_by_other_hosts_and_goes_with_its_lease(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)

    async def story() -> None:
        async with Etcd([etcd.client_url]) as client, reading(etcd) as reader:
            source = EtcdLeaseSource(client, PREFIX, tmp_path / "lease.json", ttl=TTL)
            await source.announce(RECORD)  # without a lease: nothing
            assert await list_host_records(client, PREFIX) == {}
            snapshots = source.snapshots()
            await anext(snapshots)
            lease = await source.hold(request_of(1))
            await source.announce(RECORD)
            assert await list_host_records(client, PREFIX) == {lease.key: RECORD}
            await reader.until(lambda s: lease.key in s.leases, "the lease")
            while source.hosts() != {lease.key: RECORD}:
                pulled = asyncio.ensure_future(anext(snapshots))
                await asyncio.wait([pulled], timeout=0.1)
                pulled.cancel()
            left = await source.time_left()
            assert left is not None
            assert 0 < left <= TTL
            await source.release(lease)
            assert await list_host_records(client, PREFIX) == {}
            await source.close()

    run(story())


def test_it_is_written_rarely_and_again_where_it_was_deleted(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with Etcd([etcd.client_url]) as client:
            registry = Registry(client, PREFIX)
            lease = await registry.acquire(config(), host(1), ttl=TTL)
            writer = HostRecordWriter(client, PREFIX)
            await writer.write(lease, RECORD, None)
            _, revision = await client.get("nothing")
            await writer.write(lease, RECORD, RECORD)
            other = HostRecord("node7", problem="no kbr0")
            await writer.write(lease, other, RECORD)  # too soon
            assert (await client.get("nothing"))[1] == revision
            monkeypatch.setattr(host_records, "MIN_INTERVAL", 0.0)
            await writer.write(lease, other, RECORD)
            assert await list_host_records(client, PREFIX) == {lease.key: other}
            await client.delete(f"{PREFIX}/hosts/{lease.key}")
            await writer.write(lease, other, None)
            assert await list_host_records(client, PREFIX) == {lease.key: other}

    run(story())


def test_a_reservation_s_record_ends_by_itself_and_moves_with_the_host(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with Etcd([etcd.client_url]) as client:
            writer = HostRecordWriter(client, PREFIX)
            for number in (1, 2):
                lease = Lease(subnet(f"10.5.{number}.0/24"), None, host(1), reserved=True)
                await writer.write(lease, RECORD, None)
                found, _ = await client.list(f"{PREFIX}/hosts/")
                assert [kv.key for kv in found] == [f"{PREFIX}/hosts/{lease.key}"]
                left = await client.time_to_live(found[0].lease)
                assert 0 < left <= host_records.RESERVED_TTL

    run(story())


@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "{" * 5000, "\xff"])
def test_a_broken_record_is_none(text: str) -> None:
    assert parse_record(text.encode("latin-1")) is None


def test_what_another_host_writes_is_cut_and_cleaned() -> None:
    evil = {
        "name": "a\x1b[31m" + "b" * 500,
        "version": 7,
        "started": -1,
        "ready": "yes",
        "problem": "p" * 9999,
    }
    record = parse_record(json.dumps(evil).encode())
    assert record is not None
    assert record.name == ("a[31m" + "b" * 500)[: host_records.MAX_NAME]
    assert (record.version, record.started, record.ready) == ("", 0, False)
    assert len(record.problem) == host_records.MAX_PROBLEM


def test_a_member_says_its_version(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with Etcd([etcd.client_url]) as client:
            status = await client.member_status()
            assert status.has_leader
            assert status.version.startswith("3.")
            assert await client.time_to_live(12345) == 0

    run(story())
