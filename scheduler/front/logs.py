# SPDX-License-Identifier: Apache-2.0
"""Output of tasks: GET /services/{id}/logs, /tasks/{id}/logs, in Docker's multiplexed stream.

Each piece of output has a header of 8 bytes: the stream (1 stdout, 2 stderr), three zeros, and the
length. The tasks' workers are asked, all at once; one that does not answer is told on stderr, and
the others' output goes on. With `follow`, tasks that are new are followed, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from urllib.parse import quote

from aiohttp import web

from etcd.errors import EtcdError
from scheduler.errors import SchedulerError, SpecError
from scheduler.front.answers import Route, flag, refuse_unknown
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.model.task import Task
from scheduler.runtime.protocol import LogLine
from scheduler.worker.api.client import WorkerClient
from scheduler.worker.api.contact import find_worker

STREAMS = {"stdout": 1, "stderr": 2}
AT_ONCE = 50  # tasks whose output is read at the same time
LOOK_INTERVAL = 0.5  # seconds between two looks for new tasks

CONTENT_TYPE = "application/vnd.docker.raw-stream"


def framed(stream: str, data: bytes) -> bytes:
    """A piece of output with its header."""
    return struct.pack(">BxxxI", STREAMS[stream], len(data)) + data


class Logs:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/services/{id}/logs", self.of_service
        yield "GET", "/tasks/{id}/logs", self.of_task
        yield "GET", "/containers/{id}/logs", self.of_container

    async def of_service(self, request: web.Request) -> web.StreamResponse:
        """GET /services/{id}/logs."""
        view = self._cluster.view
        given = request.match_info["id"]
        service = find(view.services, given, "service", names_of(view, "service"))
        return await self._stream(request, lambda: view.tasks_of(service).values())

    async def of_task(self, request: web.Request) -> web.StreamResponse:
        """GET /tasks/{id}/logs."""
        view = self._cluster.view
        task = find(view.tasks, request.match_info["id"], "task", {})
        return await self._stream(request, lambda: [view.tasks[task]] if task in view.tasks else [])

    async def of_container(self, request: web.Request) -> web.StreamResponse:
        """GET /containers/{id}/logs."""
        view = self._cluster.view
        given, names = request.match_info["id"], names_of(view, "container")
        task = find(view.container_specs, given, "container", names)
        return await self._stream(
            request, lambda: [view.tasks[task]] if task in view.tasks else [], endless=False
        )

    async def _stream(
        self,
        request: web.Request,
        tasks: Callable[[], Iterable[Task]],
        *,
        endless: bool = True,
    ) -> web.StreamResponse:
        refuse_unknown(
            request, *("stdout", "stderr", "follow", "tail", "timestamps", "details", "since")
        )
        output = Output(self._cluster, request)
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await response.prepare(request)
        await output.write_all(response, tasks, endless=endless)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response


class Output:
    """What one client wants of tasks' output. Raises SpecError for a wrong parameter."""

    def __init__(self, cluster: Cluster, request: web.Request) -> None:
        self._cluster = cluster
        self._streams = {name for name in STREAMS if flag(request, name)} or set(STREAMS)
        self.follow = flag(request, "follow")
        self._timestamps, self._details = flag(request, "timestamps"), flag(request, "details")
        tail = request.query.get("tail", "")
        if tail not in ("", "all") and not tail.isdecimal():
            raise SpecError(f"tail={tail!r} is neither a number nor all")
        self._tail = int(tail) if tail.isdecimal() else None
        self._since = _seconds(request.query.get("since", ""))
        self._writing = asyncio.Lock()
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def write_all(
        self,
        response: web.StreamResponse,
        tasks: Callable[[], Iterable[Task]],
        *,
        endless: bool,
    ) -> None:
        """Write the output of all tasks; `endless`: with `follow` also of those that come."""
        reading: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for task in tasks():
                    if task.id not in reading and task.node:
                        reading[task.id] = asyncio.create_task(self._write(response, task))
                if not self.follow or (reading and not endless):
                    break
                await asyncio.sleep(LOOK_INTERVAL)
                transport = response._req.transport if response._req else None  # noqa: SLF001
                if transport is None or transport.is_closing():
                    return
            await asyncio.gather(*reading.values())
        finally:
            for one in reading.values():
                one.cancel()
            await asyncio.gather(*reading.values(), return_exceptions=True)

    async def _write(self, response: web.StreamResponse, task: Task) -> None:
        limit = contextlib.nullcontext() if self.follow else self._limit
        try:
            async with limit:
                contact = await find_worker(self._cluster.etcd, self._cluster.keys, task.node)
                async with WorkerClient(contact) as worker:
                    lines = worker.logs(task.id, follow=self.follow, tail=self._tail)
                    async for line in lines:
                        await self._write_line(response, task, line)
        except ConnectionError:
            return  # the client has gone
        except (SchedulerError, EtcdError) as error:
            text = f"task {task.id}: {error}\n".encode()
            with contextlib.suppress(ConnectionError):
                async with self._writing:
                    await response.write(framed("stderr", self._context(task) + text))

    async def _write_line(self, response: web.StreamResponse, task: Task, line: LogLine) -> None:
        if line.stream not in self._streams:
            return
        if self._since and _time(line.time) < self._since:
            return
        stamp = f"{line.time} ".encode() if self._timestamps else b""
        async with self._writing:
            await response.write(framed(line.stream, stamp + self._context(task) + line.data))

    def _context(self, task: Task) -> bytes:
        """With `details` each line says whose it is, as the client's prefixes need."""
        if not self._details:
            return b""
        details = {
            "com.docker.swarm.node.id": task.node,
            "com.docker.swarm.service.id": task.service,
            "com.docker.swarm.task.id": task.id,
        }
        return ",".join(f"{key}={quote(value)}" for key, value in details.items()).encode() + b" "


def _seconds(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        raise SpecError(f"since={text!r} is no time in seconds since 1970") from None


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text[:19] + "Z").timestamp()  # nanoseconds are not read
    except ValueError:
        return 0.0
