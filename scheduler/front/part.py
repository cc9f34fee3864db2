# SPDX-License-Identifier: Apache-2.0
"""The API as a part of the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from aiohttp import web

from etcd.client import Etcd
from scheduler.errors import SchedulerError
from scheduler.front.answers import Route
from scheduler.front.cluster import Cluster
from scheduler.front.containers import Containers
from scheduler.front.events import Events
from scheduler.front.logs import Logs
from scheduler.front.networks import Networks
from scheduler.front.nodes import Nodes
from scheduler.front.server import application, tls_context, unix_listener
from scheduler.front.services import Services
from scheduler.front.stored_data import CONFIG, SECRET, StoredDataOf
from scheduler.front.system import System
from scheduler.front.tasks import Tasks
from scheduler.identity import node_id
from scheduler.settings import Settings
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

STOP_WITHIN = 1.0  # seconds for requests that go on at the end
MAX_LINE = 256 * 1024
"""Bytes of a request's first line: the client asks for many services or tasks by one filter."""

log = logging.getLogger("scheduler.front")


async def run_front(settings: Settings, etcd: Etcd) -> None:
    """Serve Docker's API until cancelled. Raises OSError, SchedulerError."""
    keys = Keys(settings.etcd.prefix)
    cluster = Cluster(etcd, keys, node_id(settings), ClusterView(keys))
    app = application(cluster, every_route(cluster))
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=STOP_WITHIN, max_line_size=MAX_LINE
    )
    await runner.setup()
    try:
        await web.SockSite(runner, unix_listener(settings.socket)).start()
        log.info("Docker's API at unix://%s", settings.socket)
        if settings.listen:
            await _listen_tls(settings, runner)
        await cluster.follow()
    finally:
        await asyncio.shield(runner.cleanup())
        settings.socket.unlink(missing_ok=True)


def every_route(cluster: Cluster) -> Iterator[Route]:
    """What is served."""
    for handlers in (System, Services, Logs, Tasks, Nodes, Networks, Events, Containers):
        yield from handlers(cluster).routes()
    for kind in (CONFIG, SECRET):
        yield from StoredDataOf(cluster, kind).routes()


async def _listen_tls(settings: Settings, runner: web.AppRunner) -> None:
    files = settings.tls_cert, settings.tls_key, settings.tls_ca
    if None in files:
        raise SchedulerError(
            "--listen needs --tls-cert, --tls-key and --tls-ca: who may use the "
            "API is root on every node"
        )
    host, _, port = settings.listen.rpartition(":")
    if not port.isdecimal():
        raise SchedulerError(f"--listen {settings.listen!r} is not HOST:PORT")
    context = tls_context(*(file for file in files if file is not None))
    await web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=context).start()
