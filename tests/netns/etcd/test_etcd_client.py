# SPDX-License-Identifier: Apache-2.0
"""The etcd client with real members: failover, deadlines, lost answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from etcd.client import (
    CompactedError,
    EtcdError,
    EtcdUnavailableError,
    NewKey,
)
from lab.etcd_server import EtcdServer
from tests.netns.etcd.running_client import STEP_TIMEOUT, client, run

# -- keys --------------------------------------------------------------------------------------


def test_keys(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            assert await db.get("/a/1") == (None, 1)
            revision = await db.put("/a/1", b"one")
            found, _ = await db.get("/a/1")
            assert found is not None
            assert (found.value, found.mod_revision, found.lease) == (b"one", revision, 0)
            await db.put("/a/2", b"")
            await db.put("/b", b"b")
            keys, _ = await db.list("/a/")
            assert [kv.key for kv in keys] == ["/a/1", "/a/2"]
            assert [kv.value for kv in (await db.list("/a/", keys_only=True))[0]] == [b"", b""]
            assert await db.delete("/a/2")
            assert not await db.delete("/a/2")

    run(story())


def test_conditional_writes(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            first = await db.put_if("/k", b"1", mod_revision=0)
            assert first is not None
            assert await db.put_if("/k", b"2", mod_revision=0) is None
            second = await db.put_if("/k", b"2", mod_revision=first)
            assert second is not None
            assert await db.put_if("/k", b"3", mod_revision=first) is None
            assert not await db.delete_if("/k", mod_revision=first)
            assert await db.delete_if("/k", mod_revision=second)

    run(story())


def test_a_repeated_write_finds_what_the_first_one_wrote(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            first = await db.put_if("/s/1", b"me", mod_revision=0, lease=lease)
            # the same request again, as after a connection that broke before the answer
            assert await db.put_if("/s/1", b"me", mod_revision=0, lease=lease) == first
            other = await db.grant(60)
            wanted = [NewKey("/s/1", b"x"), NewKey("/s/2", b"x"), NewKey("/s/3", b"x")]
            done = await db.put_first_absent(wanted, "/s/", lease=other)
            assert done.key == "/s/2"
            again = await db.put_first_absent(wanted, "/s/", lease=other)
            assert again == done  # and /s/3 is still free
            third = await db.grant(60)
            nothing = await db.put_first_absent(wanted[:2], "/s/", lease=third)
            assert nothing.key is None
            assert [kv.key for kv in nothing.keys] == ["/s/1", "/s/2"]
            # a candidate whose prefix exists is skipped
            guarded = [NewKey("/s/10", b"x", ("/s/1",)), NewKey("/s/4", b"x", ("/s/4",))]
            assert (await db.put_first_absent(guarded, "/s/", lease=third)).key == "/s/4"

    run(story())


def test_forty_candidates_are_within_the_limits(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            many = [NewKey(f"/s/{n}", b"x", (f"/s/{n}-",)) for n in range(40)]
            for candidate in many[:-1]:
                await db.put(candidate.key, b"taken")
            assert (await db.put_first_absent(many, "/s/", lease=lease)).key == "/s/39"

    run(story())


def test_leases_of_etcd(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            await db.put("/k", b"", lease=lease)
            assert await db.keep_alive(lease) == 60
            await db.revoke(lease)
            await db.revoke(lease)
            assert await db.keep_alive(lease) == 0
            assert (await db.get("/k"))[0] is None
            with pytest.raises(EtcdError, match="lease not found"):
                await db.put("/k", b"", lease=lease)

    run(story())


def test_a_watch_tells_every_change_once_or_reports_that_it_can_not(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            revisions = [await db.put("/w/k", str(n).encode()) for n in range(5)]
            seen: list[bytes] = []
            async with contextlib.aclosing(db.watch("/w/", revisions[1])) as watch:
                async for batch in watch:
                    seen += [kv.value for _, kv in batch.events if kv is not None]
                    if len(seen) == 4:
                        break
            assert seen == [b"1", b"2", b"3", b"4"]
            etcd.compact(revisions[3])
            watch = db.watch("/w/", revisions[1])
            assert not (await anext(watch)).events
            with pytest.raises(CompactedError, match="compacted revision"):
                await anext(watch)
            with pytest.raises(CompactedError, match="restored from a backup or started empty"):
                await anext(db.watch("/w/", revisions[4] + 1000))

    run(story())


# -- trouble -----------------------------------------------------------------------------------


def test_a_frozen_etcd_is_an_error_after_the_deadline(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd, deadline=0.5) as db:
            await db.put("/k", b"")
            lease = await db.grant(60)
            etcd.pause()
            for call in (db.get("/k"), db.put("/k", b""), db.grant(60), db.keep_alive(lease)):
                with pytest.raises(
                    EtcdUnavailableError, match=r"no answer (in time|within 0\.5 s)"
                ):
                    await call
            etcd.resume()
            async with asyncio.timeout(STEP_TIMEOUT):
                while True:
                    with contextlib.suppress(EtcdUnavailableError):
                        await db.get("/k")
                        break

    run(story())


def test_an_absent_etcd_is_one_line(etcd: EtcdServer) -> None:
    etcd.stop()

    async def story() -> None:
        async with client(etcd) as db:
            for call in (db.get("/k"), db.grant(60), db.keep_alive(7)):
                with pytest.raises(EtcdUnavailableError) as refusal:
                    await call
                assert str(refusal.value).startswith(
                    f"etcd {etcd.client_url}: Connection refused: "
                )
            with pytest.raises(EtcdUnavailableError, match="refused"):
                await anext(db.watch("/", 1))

    run(story())


def test_a_rolling_restart_fails_no_call(
    etcd_cluster: Callable[[int], list[EtcdServer]],
) -> None:
    """There is always a quorum; only calls that an election interrupts may fail, with an error."""
    members = etcd_cluster(3)

    async def story() -> None:
        async with client(*members) as db:
            written = 0

            async def write() -> None:
                nonlocal written
                while True:
                    with contextlib.suppress(EtcdUnavailableError, EtcdError):
                        await db.put("/k", str(written).encode())
                        written += 1

            writing = asyncio.create_task(write())
            for member in members:
                before = written
                await asyncio.to_thread(member.kill)
                async with asyncio.timeout(STEP_TIMEOUT):
                    while written < before + 20:  # noqa: ASYNC110 - two members serve
                        await asyncio.sleep(0.02)
                await asyncio.to_thread(member.start)
            writing.cancel()
            found, _ = await db.get("/k")
            assert found is not None
            assert int(found.value) >= written - 1

    run(story())


def test_waiting_takes_no_cpu(etcd: EtcdServer) -> None:
    etcd.stop()

    async def story() -> None:
        async with client(etcd) as db:
            burnt, until = time.process_time(), time.monotonic() + 2
            while time.monotonic() < until:
                with contextlib.suppress(EtcdUnavailableError):
                    await db.get("/k")
            assert time.process_time() - burnt < 1

    run(story())
