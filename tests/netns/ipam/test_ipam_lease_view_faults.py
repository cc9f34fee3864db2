# SPDX-License-Identifier: Apache-2.0
"""A lease view whose etcd is stopped, wiped, restored, compacted or frozen."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from etcd.client import Etcd, EtcdError
from lab.etcd_server import EtcdServer
from tests.netns.ipam.lease_reader import (
    CONFIG,
    PREFIX,
    STEP_TIMEOUT,
    delete,
    elsewhere,
    key,
    logged,
    put,
    reading,
    run,
    until_logged,
    value,
)


def test_etcd_stopped_and_started(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            cluster.stop()
            cluster.start()
            put(cluster, 3)
            delete(cluster, 1)
            await reader.until_holds(2, 3)
            assert reader.view.listed == 1  # the watch was resumed
            assert reader.snapshots[-1].history == 0

    run(story())


def test_changes_during_a_broken_connection_are_read_afterwards(
    cluster: EtcdServer,
) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            for number in range(3, 8):
                cluster.kill()
                cluster.start()
                put(cluster, number)
                delete(cluster, number - 1)
                assert (await reader.until_holds(1, number)).history == 0

    run(story())


def test_compacted_while_we_were_away(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            with elsewhere(cluster) as hidden:
                put(hidden, 3)
                put(hidden, 2, mac=5)
                delete(hidden, 1)
                hidden.compact()
                hidden.defrag()
            last = await reader.until_holds(2, 3)
            assert last.changed == {key(1), key(2), key(3)}
            assert reader.view.listed == 2
            assert last.history == 0  # a compaction loses nothing

    run(story())


def test_started_empty(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            cluster.wipe()
            cluster.start()
            last = await reader.until(lambda s: not s.leases, "empty")
            assert last.changed == {key(1), key(2)}
            assert last.config is None
            assert last.history == 1
            assert last.revision == 1
            put(cluster, 3)
            await reader.until_holds(3)

    run(story())


def test_started_empty_and_grown_past_our_revision(cluster: EtcdServer) -> None:
    """The new history has more revisions than the one we know: a revision alone proves nothing."""

    async def story() -> None:
        async with reading(cluster) as reader:
            known = await reader.until_holds(1, 2)
            cluster.wipe()
            with elsewhere(cluster) as hidden:
                hidden.ctl("put", f"{PREFIX}/config", CONFIG)
                put(hidden, 5)
                for number in range(8):
                    put(hidden, 6, mac=number)
                assert hidden.revision() > known.revision
            assert (await reader.until_holds(5, 6)).history == 1

    run(story())


def test_an_empty_view_notices_another_history_too(cluster: EtcdServer) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            cluster.ctl("del", "--prefix", "/")
            await reader.until_holds()
            cluster.wipe()
            with elsewhere(cluster) as hidden:
                put(hidden, 5)
                for number in range(8):
                    put(hidden, 6, mac=number)
            assert (await reader.until_holds(5, 6)).history == 1

    run(story())


def test_restored_from_a_snapshot(cluster: EtcdServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with reading(cluster) as reader:
            await reader.until_holds(1, 2)
            cluster.save(tmp_path / "snapshot")
            put(cluster, 3)
            put(cluster, 2, mac=7)
            await reader.until(
                lambda s: key(3) in s.leases and "07:02" in str(s.leases[key(2)]), "changes"
            )
            cluster.restore(tmp_path / "snapshot")
            cluster.start()
            last = await reader.until_holds(1, 2)
            assert "00:02" in str(last.leases[key(2)])
            assert last.history == 1
            put(cluster, 4)
            await reader.until_holds(1, 2, 4)

    run(story())


def test_frozen(cluster: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """SIGSTOP: connections stay, nothing answers, for longer than keepalive waits."""

    async def story() -> None:
        async with reading(cluster, deadline=2) as reader:
            await reader.until_holds(1, 2)
            cluster.pause()
            await until_logged(caplog)
            cluster.resume()
            put(cluster, 3)
            await reader.until_holds(1, 2, 3)
            assert reader.view.listed == 1

    run(story())


def test_a_three_member_cluster_loses_its_leader(
    etcd_cluster: Callable[[int], list[EtcdServer]],
) -> None:
    members = etcd_cluster(3)
    put(members[0], 1)

    def leader() -> EtcdServer:
        for member in members:
            status = json.loads(member.ctl("endpoint", "status", "-w=json"))[0]["Status"]
            if status["leader"] == status["header"]["member_id"]:
                return member
        raise AssertionError("no leader")

    async def story() -> None:
        async with reading(*members) as reader:
            await reader.until_holds(1)
            lost = leader()
            lost.kill()
            rest = [member for member in members if member is not lost]
            async with Etcd([member.client_url for member in rest]) as writer:
                await written(writer, 2)
                await reader.until_holds(1, 2)
                lost.start()
                for number, member in enumerate(members, 3):  # rolling restart
                    member.stop()
                    member.start()
                    await written(writer, number)
                await reader.until_holds(1, 2, 3, 4, 5)
            assert reader.view.listed <= 2

    async def written(writer: Etcd, number: int) -> None:
        async with asyncio.timeout(STEP_TIMEOUT):
            while True:
                try:
                    await writer.put(f"{PREFIX}/subnets/{key(number)}", value(number).encode())
                except EtcdError:  # an election takes its time
                    await asyncio.sleep(0.1)
                else:
                    return

    run(story())


def test_etcd_that_comes_late_is_one_line_in_the_log(
    etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    etcd.stop()

    async def story() -> None:
        async with reading(etcd) as reader:
            await until_logged(caplog)
            burnt = time.process_time()
            await asyncio.sleep(2)
            assert time.process_time() - burnt < 1  # it waits without polling
            etcd.start()
            put(etcd, 1)
            await reader.until_holds(1)

    with caplog.at_level(logging.INFO, "ipam"):
        run(story())
    lines = logged(caplog)
    assert len(lines) == 2
    assert etcd.client_url in lines[0]
    assert "Connection refused" in lines[0]
    assert lines[1] == "etcd answers again"
