# SPDX-License-Identifier: Apache-2.0
"""A lease view of a real etcd, followed as the daemon does, and writers of leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from etcd.client import Etcd
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


def run(story: Awaitable[None]) -> None:
    """Run it in an event loop of its own, with a deadline."""

    async def limited() -> None:
        async with asyncio.timeout(4 * STEP_TIMEOUT):
            await story

    asyncio.run(limited())


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
