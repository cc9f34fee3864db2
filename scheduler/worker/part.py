# SPDX-License-Identifier: Apache-2.0
"""The worker as a part of the process: put together from the settings."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

from aiohttp import web

from etcd.client import Etcd
from scheduler.errors import SchedulerError
from scheduler.identity import node_id
from scheduler.model.node import NodeReport
from scheduler.runtime.cni.network import Networks
from scheduler.runtime.containerd.driver import ContainerdRuntime
from scheduler.runtime.process.driver import ProcessRuntime
from scheduler.runtime.protocol import Runtime
from scheduler.settings import Settings
from scheduler.store.documents import timestamp
from scheduler.store.keys import Keys
from scheduler.worker.api.server import WorkerApi
from scheduler.worker.assignments import Assignments
from scheduler.worker.heartbeat import keep_registered
from scheduler.worker.machine import describe, own_address
from scheduler.worker.pod_config import Surroundings
from scheduler.worker.records import Records

log = logging.getLogger("scheduler.worker")


def make_runtime(settings: Settings, node: str) -> Runtime:
    """The driver that the settings name."""
    if settings.runtime == "containerd":
        socket = Path(settings.containerd_socket)
        return ContainerdRuntime(node, settings.state_dir, run_dir(settings), socket)
    networks = Networks(settings.cni_conf_dir, [settings.cni_bin_dir], settings.state_dir / "cni")
    return ProcessRuntime(node, settings.state_dir, run_dir(settings), networks)


def run_dir(settings: Settings) -> Path:
    """Where sockets are, and what a restart of the machine clears."""
    return settings.socket.parent / f"worker-{node_id(settings)[:12]}"


async def run_worker(settings: Settings, etcd: Etcd) -> None:
    """Run this node's tasks until cancelled; they go on afterwards."""
    node, keys = node_id(settings), Keys(settings.etcd.prefix)
    runtime = make_runtime(settings, node)
    await runtime.open()
    address = settings.address or own_address()
    description = describe(settings.hostname, await runtime.version())
    assignments = Assignments(
        etcd,
        keys,
        Surroundings(node, description.hostname),
        runtime,
        Records(settings.state_dir / "tasks", node),
    )
    api = WorkerApi(runtime, assignments.runners, secrets.token_urlsafe(32))
    await api.start(address)
    page = await serve_metrics(settings.metrics_listen, api)
    report = NodeReport(
        id=node,
        description=description,
        addr=address,
        runtime=runtime.name,
        started_at=timestamp(),
        labels=labels(settings.label),
    )
    jobs = [
        asyncio.create_task(assignments.run(), name="assignments"),
        asyncio.create_task(
            keep_registered(
                *(etcd, keys, report, {keys.worker(node): api.contact()}),
                role="manager" if settings.manager else "worker",
            ),
            name="heartbeat",
        ),
    ]
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            if job.done():
                job.result()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if page is not None:
            await page.cleanup()
        await api.close()
        await runtime.close()


async def serve_metrics(listen: str, api: WorkerApi) -> web.AppRunner | None:
    """Serve the page for Prometheus. Raises SchedulerError: not HOST:PORT; OSError: it is taken."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise SchedulerError(f"--metrics-listen {listen!r} is not HOST:PORT")
    app = web.Application()
    app.add_routes([web.get("/metrics", api.metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    return runner


def labels(given: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` each. Raises SchedulerError."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise SchedulerError(f"--label {text!r} is not NAME=VALUE")
        found[name] = value
    return found
