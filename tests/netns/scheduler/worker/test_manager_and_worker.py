# SPDX-License-Identifier: Apache-2.0
"""A manager and a worker in one process: services become processes, and are replaced by others."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from lab.etcd_server import EtcdServer
from scheduler.model.base import parse
from scheduler.model.service import Service, ServiceSpec
from scheduler.model.task import TaskState
from scheduler.store import codec
from scheduler.store.documents import Documents
from scheduler.store.follow import Batch, list_all
from scheduler.store.view import ClusterView
from tests.netns.scheduler.runtime.process_node import DEADLINE, PLUGINS, install_network
from tests.netns.scheduler.worker.worker_node import KEYS, WorkerNode, shell_spec, worker_node

pytestmark = pytest.mark.skipif(
    not (PLUGINS / "ptp").exists(), reason="needs containernetworking-plugins"
)


def service(replicas: int, text: str, **more: Any) -> ServiceSpec:
    mode = {"Replicated": {"Replicas": replicas}}
    task = {**shell_spec(text), "RestartPolicy": {"Delay": 100_000_000}, **more}
    update = {"Parallelism": 0, "Monitor": 100_000_000}
    return parse(
        ServiceSpec, {"Name": "web", "Mode": mode, "TaskTemplate": task, "UpdateConfig": update}
    )


async def look(worker: WorkerNode) -> ClusterView:
    view = ClusterView(KEYS)
    found, revision = await list_all(worker.db, KEYS.everything)
    view.take(Batch(tuple((kv.key, kv) for kv in found), revision, complete=True))
    return view


async def until_running(worker: WorkerNode, count: int, version: int = 1) -> list[float]:
    """Until exactly so many tasks run, all of one version; seconds from created to running."""
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                view = await look(worker)
                ended = {t for t, status in view.statuses.items() if status.state.ended}
                wanted = [t for t in view.tasks.values() if t.desired is TaskState.RUNNING]
                tasks = [t for t in wanted if t.id not in ended]
                found = [(t, view.statuses.get(t.id)) for t in tasks]
                ready = [
                    status.timestamp - task.created
                    for task, status in found
                    if status is not None
                    and status.state is TaskState.RUNNING
                    and task.spec_version == version
                ]
                running = [s for s in view.statuses.values() if s.state is TaskState.RUNNING]
                if len(ready) == len(tasks) == len(running) == count:
                    return ready
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{view.tasks}\n{view.statuses}\n{worker.log()}") from None


def test_a_service_is_created_scaled_updated_and_removed(
    tmp_path: Path, netns: str, etcd: EtcdServer
) -> None:
    install_network(tmp_path, netns)

    async def story() -> None:
        async with worker_node(tmp_path, etcd, "--manager") as worker:
            documents = Documents(worker.db, KEYS)
            made = await documents.create_service(service(5, "exec sleep 100000"))
            delays = await until_running(worker, 5)
            print(f"created to running: p50 {statistics.median(delays) * 1000:.0f} ms")
            key = KEYS.service(made.id)

            async def change(spec: ServiceSpec) -> None:
                while True:  # the leader writes it, too
                    found, _ = await worker.db.get(key)
                    assert found is not None
                    known = codec.decode(Service, found.value)
                    try:
                        await documents.update_service(known, spec, found.mod_revision)
                    except Exception as error:
                        if "out of sequence" not in str(error):
                            raise
                    else:
                        return

            await change(service(8, "exec sleep 100000"))
            await until_running(worker, 8)
            await change(service(3, "exec sleep 100001"))
            await until_running(worker, 3, version=2)
            view = await look(worker)
            victim = next(s.pid for s in view.statuses.values() if s.state is TaskState.RUNNING)
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.5)
            await until_running(worker, 3, version=2)
            await documents.remove("service", "web", key, KEYS.specs_of(made.id))
            await until_running(worker, 0)

    asyncio.run(story())
