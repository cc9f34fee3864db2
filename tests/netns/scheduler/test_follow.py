# SPDX-License-Identifier: Apache-2.0
"""Everything below a prefix, through pages, lost connections, compaction: with a real etcd."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lab.etcd_server import EtcdServer
from scheduler.errors import ConflictError, OutOfDateError
from scheduler.model.base import parse
from scheduler.model.service import ServiceSpec
from scheduler.store.documents import Documents
from scheduler.store.follow import follow, list_all
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView
from tests.netns.etcd.running_client import STEP_TIMEOUT, client, run

KEYS = Keys("/s")


def spec(name: str = "web", replicas: int = 1) -> ServiceSpec:
    return parse(ServiceSpec, {"Name": name, "Mode": {"Replicated": {"Replicas": replicas}}})


def test_pages_are_put_together(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            for number in range(7):
                await db.put(f"/p/{number}", b"x")
            await db.put("/q", b"x")
            for page in (1, 3, 7, 8):
                found, _ = await list_all(db, "/p/", page)
                assert [kv.key for kv in found] == [f"/p/{number}" for number in range(7)]

    run(story())


def test_objects_are_created_once_and_changed_as_they_were_read(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            documents = Documents(db, KEYS)
            service = await documents.create_service(spec())
            with pytest.raises(ConflictError, match="service web: there is one"):
                await documents.create_service(spec())
            key = KEYS.service(service.id)
            found, _ = await db.get(key)
            assert found is not None
            await documents.update_service(service, spec(replicas=2), found.mod_revision)
            with pytest.raises(OutOfDateError, match="update out of sequence"):
                await documents.update_service(service, spec(replicas=3), found.mod_revision)
            await documents.remove("service", "web", key, KEYS.specs_of(service.id))
            assert (await list_all(db, KEYS.everything))[0] == []

    run(story())


def test_the_view_goes_on_after_compaction_and_an_etcd_that_was_away(etcd: EtcdServer) -> None:
    async def story() -> None:
        view, said = ClusterView(KEYS), list[str | None]()

        async def look() -> None:
            async for batch in follow(db, KEYS.everything, trouble=said.append):
                view.take(batch)

        async def until_seen(names: set[str]) -> None:
            async with asyncio.timeout(STEP_TIMEOUT):
                while {one.name for one in view.services.values()} != names:  # noqa: ASYNC110 - etcd's view is polled
                    await asyncio.sleep(0.02)

        async with client(etcd) as db, client(etcd) as other:
            looking = asyncio.create_task(look())
            documents = Documents(other, KEYS)
            first = await documents.create_service(spec("one"))
            await until_seen({"one"})
            etcd.kill()
            async with asyncio.timeout(STEP_TIMEOUT):
                while not (said and said[-1]):  # noqa: ASYNC110 - etcd's view is polled
                    await asyncio.sleep(0.02)
            etcd.start()
            key = KEYS.service(first.id)
            await documents.remove("service", "one", key, KEYS.specs_of(first.id))
            await documents.create_service(spec("two"))
            etcd.compact()
            await until_seen({"two"})
            await documents.create_service(spec("three"))
            await until_seen({"two", "three"})
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    run(story())


def test_an_etcd_that_was_restored_from_a_backup_is_read_again(
    etcd: EtcdServer,
) -> None:
    async def story() -> None:
        view = ClusterView(KEYS)

        async def look() -> None:
            async for batch in follow(db, KEYS.everything):
                view.take(batch)

        async def until_seen(names: set[str]) -> None:
            async with asyncio.timeout(STEP_TIMEOUT):
                while {one.name for one in view.services.values()} != names:  # noqa: ASYNC110 - etcd's view is polled
                    await asyncio.sleep(0.02)

        async with client(etcd) as db, client(etcd) as other:
            looking = asyncio.create_task(look())
            documents = Documents(other, KEYS)
            await documents.create_service(spec("one"))
            await until_seen({"one"})
            etcd.stop()
            etcd.wipe()
            etcd.start()
            for name in ("two", "three", "four"):  # its revision is higher than ours again
                await documents.create_service(spec(name))
            await until_seen({"two", "three", "four"})
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    run(story())
