"""The lease view with a real etcd that is stopped, wiped, restored, compacted, frozen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from etcd.client import Etcd, EtcdError
from ipam.lease_source import Snapshot
from ipam.lease_view import LeaseView
from ipam.registry import Registry
from lab.etcd_server import EtcdServer

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'
STEP_TIMEOUT = 60.0  # seconds; a loaded machine


def value(number: int, mac: int = 0) -> str:
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:{mac:02x}:{number:02x}"}
    document = {
        "PublicIP": f"192.168.64.{number}",
        "PublicIPv6": None,
        "BackendType": "vxlan",
        "BackendData": data,
    }
    return json.dumps(document, separators=(",", ":"))


def key(number: int) -> str:
    return f"10.5.{number}.0-24"


class Reader:
    """Follows a view, as the daemon does, and keeps each snapshot."""

    def __init__(self, view: LeaseView) -> None:
        self.view = view
        self.snapshots: list[Snapshot] = []
        self.leases: dict[str, object] = {}
        self.news = asyncio.Condition()

    async def run(self) -> None:
        async for snapshot in self.view:
            # applying only the changes must give the same leases
            for name in snapshot.changed:
                if name in snapshot.leases:
                    self.leases[name] = snapshot.leases[name]
                else:
                    del self.leases[name]
            assert self.leases == snapshot.leases
            async with self.news:
                self.snapshots.append(snapshot)
                self.news.notify_all()

    async def until(self, condition: Callable[[Snapshot], bool], what: str) -> Snapshot:
        def met() -> bool:
            return bool(self.snapshots) and condition(self.snapshots[-1])

        try:
            async with asyncio.timeout(STEP_TIMEOUT), self.news:
                await self.news.wait_for(met)
        except TimeoutError:
            raise AssertionError(f"not seen: {what}; last {self.snapshots[-1:]}") from None
        return self.snapshots[-1]

    async def until_holds(self, *numbers: int) -> Snapshot:
        wanted = set(map(key, numbers))
        return await self.until(lambda s: set(s.leases) == wanted, f"leases {numbers}")


@contextlib.asynccontextmanager
async def reading(*servers: EtcdServer, deadline: float = 5.0) -> AsyncIterator[Reader]:
    endpoints = [server.client_url for server in servers]
    async with Etcd(endpoints, deadline=deadline) as etcd, asyncio.TaskGroup() as tasks:
        reader = Reader(LeaseView(Registry(etcd)))
        task = tasks.create_task(reader.run())
        yield reader
        task.cancel()


def tell(story: Awaitable[None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(4 * STEP_TIMEOUT):
            await story

    asyncio.run(run())


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the view logged; lines of gRPC about event loops that ended are left out."""
    return [r.getMessage() for r in caplog.records if r.name == "ipam.lease_view"]


async def until_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(STEP_TIMEOUT):
        while not logged(caplog):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.05)


def put(server: EtcdServer, number: int, mac: int = 0) -> None:
    server.ctl("put", f"{PREFIX}/subnets/{key(number)}", value(number, mac))


def delete(server: EtcdServer, number: int) -> None:
    server.ctl("del", f"{PREFIX}/subnets/{key(number)}")


@contextlib.contextmanager
def elsewhere(server: EtcdServer) -> Iterator[EtcdServer]:
    """The same etcd at another address: connections to the first address break."""
    hidden = replace(server, client_url=server.client_url.replace("2379", "4379"))
    server.stop()
    hidden.start()
    yield hidden
    hidden.stop()
    server.start()


@pytest.fixture
def cluster(etcd: EtcdServer) -> EtcdServer:
    """A cluster with a config and two leases."""
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    put(etcd, 1)
    put(etcd, 2)
    return etcd


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

    tell(story())


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

    tell(story())


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
        tell(story())
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

    tell(story())
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
            assert (
                before["Range"] == 2
            )  # all leases, and the newest key, which proves that etcd's history is the same
            await asyncio.sleep(60 if os.environ.get("FLATMESH_LONG") else 2)
            assert cluster.requests() == before
            put(cluster, 4)
            await reader.until_holds(1, 2, 3, 4)
            assert reader.view.listed == 1

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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

    tell(story())


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
        tell(story())
    lines = logged(caplog)
    assert len(lines) == 2
    assert etcd.client_url in lines[0]
    assert "Connection refused" in lines[0]
    assert lines[1] == "etcd answers again"
