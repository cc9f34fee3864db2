# SPDX-License-Identifier: Apache-2.0
"""What a lease view tells: leases and the config as they come, change and go."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from etcd.client import Etcd
from lab.etcd_server import EtcdServer
from tests.netns.ipam.lease_reader import (
    CONFIG,
    PREFIX,
    delete,
    key,
    put,
    reading,
    run,
    value,
)


def test_what_comes_goes_and_changes(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            first = await reader.until_holds(1, 2)
            assert first.changed == {key(1), key(2)}
            assert first.config is not None
            assert first.config.backend_type == "vxlan"
            put(cluster, 3)
            assert (await reader.until_holds(1, 2, 3)).changed == {key(3)}
            delete(cluster, 1)
            assert (await reader.until_holds(2, 3)).changed == {key(1)}
            put(cluster, 2, mac=9)
            await reader.until(lambda s: s.changed == {key(2)}, "the new MAC")
            assert set(first.leases) == {key(1), key(2)}  # a snapshot stays what it was

    run(story())


def test_config_comes_breaks_and_goes(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with reading(etcd) as reader:
            none = await reader.until(lambda s: s.config is None, "no config")
            assert none.config_error is not None
            assert "flatmesh config set" in none.config_error
            etcd.ctl("put", f"{PREFIX}/config", CONFIG)
            await reader.until(lambda s: s.config is not None, "a config")
            etcd.ctl("put", f"{PREFIX}/config", '{"Network":"10.5.0.0/99"}')
            broken = await reader.until(lambda s: "/99" in (s.config_error or ""), "broken")
            assert broken.config is None
            etcd.ctl("del", f"{PREFIX}/config")
            await reader.until(lambda s: "no cluster config" in (s.config_error or ""), "gone")

    run(story())


def test_broken_keys_are_logged_once_and_skipped(
    cluster: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("10.5.7.0-24", "hello", "10.5.8.1-24"):
        cluster.ctl("put", f"{PREFIX}/subnets/{name}", "not json")

    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            cluster.ctl("put", f"{PREFIX}/subnets/10.5.7.0-24", "not json")
            cluster.ctl("put", f"{PREFIX}/subnets/10.5.9.0-24", "[]")
            cluster.stop()
            cluster.start()
            put(cluster, 2, mac=1)  # a valid key may become invalid, and valid again
            cluster.ctl("put", f"{PREFIX}/subnets/{key(1)}", "broken")
            await reader.until_holds(2)
            put(cluster, 1)
            await reader.until_holds(1, 2)

    with caplog.at_level(logging.WARNING, "ipam.lease_view"):
        run(story())
    skipped = [r.getMessage() for r in caplog.records if "skipping" in r.getMessage()]
    assert len(skipped) == len(set(skipped)) == 5
    assert all("\n" not in line for line in skipped)


def test_a_burst_is_few_snapshots_and_one_watch(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader, Etcd([cluster.client_url]) as writer:
            await reader.until_holds(1, 2)
            many = [(third, number) for third in range(1, 5) for number in range(100)]
            await asyncio.gather(
                *(
                    writer.put(f"{PREFIX}/subnets/10.{6 + a}.{b}.0-24", value(b).encode())
                    for a, b in many
                )
            )
            await reader.until(lambda s: len(s.leases) == 402, "the burst")
            assert reader.view.listed == 1
            assert len(reader.snapshots) < 200

    run(story())
    assert cluster.requests()["Watch"] == 1


def test_an_idle_view_asks_for_nothing(cluster: EtcdServer) -> None:
    """The long form lasts until etcd would hang up on whoever pings too often."""

    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            put(cluster, 3)  # when this is seen, the watch has begun
            await reader.until_holds(1, 2, 3)
            before = cluster.requests()
            assert before["Watch"] == 1
            # all leases, and the newest key, which proves that etcd's history is the same
            assert (before["Txn"], before["Range"]) == (1, 1)
            await asyncio.sleep(60 if os.environ.get("FLATMESH_LONG") else 2)
            assert cluster.requests() == before
            put(cluster, 4)
            await reader.until_holds(1, 2, 3, 4)
            assert reader.view.listed == 1

    run(story())
