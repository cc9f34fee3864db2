# SPDX-License-Identifier: Apache-2.0
"""Managers and simulated workers in a test's event loop, on a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from bench.scheduler.workers import SimulatedWorkers
from etcd.client import Etcd
from scheduler.manager.election import campaign
from scheduler.manager.term import Leadership
from scheduler.model.base import parse
from scheduler.model.service import Service, ServiceSpec
from scheduler.store.documents import Documents
from scheduler.store.follow import follow
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView
from tests.netns.etcd.running_client import STEP_TIMEOUT

KEYS = Keys("/s")
NETWORK = "/n"


def service_spec(name: str = "web", replicas: int | None = 1, **more: Any) -> ServiceSpec:
    """A small spec; `replicas=None`: global."""
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    template = more.pop("TaskTemplate", {"ContainerSpec": {"Image": "one"}})
    return parse(ServiceSpec, {"Name": name, "Mode": mode, "TaskTemplate": template, **more})


@contextlib.asynccontextmanager
async def manager(db: Etcd, name: str = "m1", **flags: Any) -> AsyncIterator[asyncio.Task[None]]:
    """A manager; it is cancelled, as a stop does, at the end."""
    leadership = Leadership(db, KEYS, NETWORK, **flags)
    task = asyncio.create_task(campaign(db, KEYS, name, leadership.lead), name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def watched(db: Etcd) -> AsyncIterator[ClusterView]:
    """The cluster as a client sees it."""
    view = ClusterView(KEYS)

    async def look() -> None:
        async for batch in follow(db, KEYS.everything):
            view.take(batch)

    task = asyncio.create_task(look())
    try:
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            while not condition():  # noqa: ASYNC110 - what etcd and others do is polled
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {STEP_TIMEOUT} s: {what}") from None


async def updated(
    documents: Documents, view: ClusterView, service: Service, spec: ServiceSpec
) -> Service:
    """Give a service another spec, as it is now."""
    key = KEYS.service(service.id)
    await until(lambda: service.id in view.services, "the service is seen")
    return await documents.update_service(view.services[service.id], spec, view.version(key))


def per_node(workers: SimulatedWorkers, service: str | None = None) -> Counter[str]:
    """How many tasks really run on each node."""
    return Counter(
        task.node for task in workers.running.values() if service in (None, task.service)
    )
