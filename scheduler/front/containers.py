# SPDX-License-Identifier: Apache-2.0
"""`docker run -d, ps, logs, stop, rm` for the cluster: a container is a task without a service.

Its name is a claim, its spec is `specs/container/<id>`; `start` makes the task, which the leader
places on a node. A task runs once: a container that has ended is not started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from aiohttp import web

from etcd.client import Transaction
from scheduler.errors import ConflictError, NotFoundError, OutOfDateError
from scheduler.front.answers import Route, answer, body_of, flag, refuse_unknown
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.front.container_documents import inspected, listed, runs
from scheduler.front.container_spec import container_task
from scheduler.front.filters import Filters
from scheduler.front.spec_check import require_container, require_name
from scheduler.model.task import Task, TaskState
from scheduler.store import codec
from scheduler.store.documents import new_id
from scheduler.worker.api.client import WorkerClient
from scheduler.worker.api.contact import find_worker

STOP_WITHIN = 25.0  # seconds for which a request waits for a container's end


class Containers:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/containers/json", self.list
        yield "POST", "/containers/create", self.create
        yield "GET", "/containers/{id}/json", self.inspect
        yield "POST", "/containers/{id}/start", self.start
        yield "POST", "/containers/{id}/stop", self.stop
        yield "POST", "/containers/{id}/kill", self.kill
        yield "POST", "/containers/{id}/wait", self.wait
        yield "DELETE", "/containers/{id}", self.remove

    def _find(self, request: web.Request) -> tuple[str, str]:
        """Id and name. Raises NotFoundError."""
        view = self._cluster.view
        names = names_of(view, "container")
        found = find(view.container_specs, request.match_info["id"], "container", names)
        return found, next((name for name, one in names.items() if one == found), found)

    async def list(self, request: web.Request) -> web.Response:
        """GET /containers/json?all=1."""
        refuse_unknown(request, "all", "filters", "size")
        filters = Filters.of(request.query.get("filters", ""), "id", "name", "label")
        view, found = self._cluster.view, []
        for name, container in sorted(names_of(view, "container").items()):
            spec = view.container_specs.get(container)
            if (
                spec is not None
                and (flag(request, "all") or runs(container, view))
                and filters.begins("id", container)
                and filters.begins("name", name)
                and filters.has_labels(spec.container_spec.labels)
            ):
                found.append(listed(container, name, spec, view))
        return answer(found)

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /containers/{id}/json."""
        container, name = self._find(request)
        view = self._cluster.view
        return answer(inspected(container, name, view.container_specs[container], view))

    async def create(self, request: web.Request) -> web.Response:
        """POST /containers/create?name=."""
        refuse_unknown(request, "name")
        cluster = self._cluster
        spec, made = container_task(await body_of(request)), new_id()
        require_container(spec.container_spec, cluster.view)
        name = request.query.get("name") or f"container-{made[:12]}"
        require_name(name, "container")
        claim, key = cluster.keys.name("container", name), cluster.keys.container_spec(made)
        done = await cluster.etcd.commit(
            Transaction(unchanged={claim: 0}, put={claim: made.encode(), key: codec.encode(spec)})
        )
        if done is None:
            raise ConflictError(f"container {name}: there is one with this name: choose another")
        await cluster.shows(lambda: made in cluster.view.container_specs)
        return answer({"Id": made, "Warnings": []}, 201)

    async def start(self, request: web.Request) -> web.Response:
        """POST /containers/{id}/start: the task begins to wait for a node."""
        refuse_unknown(request)
        cluster, (container, name) = self._cluster, self._find(request)
        task = cluster.view.tasks.get(container)
        if task is not None:
            if runs(container, cluster.view):
                return web.Response(status=304)
            raise ConflictError(
                f"container {name} has ended; it is not started again: make another"
            )
        key, spec = cluster.keys.container_spec(container), cluster.view.container_specs[container]
        made = Task(container, "", 0, 1, created=time.time(), name=name)
        pending = cluster.keys.pending(container)
        done = await cluster.etcd.commit(
            Transaction(
                unchanged={key: cluster.view.version(key), pending: 0},
                put={key: codec.encode(spec), pending: codec.encode_task(made)},
            )
        )
        if done is None:
            raise ConflictError(f"container {name} was started by another client just now")
        await cluster.shows(lambda: container in cluster.view.tasks)
        return web.Response(status=204)

    async def stop(self, request: web.Request) -> web.Response:
        """POST /containers/{id}/stop: SIGTERM, after its stop timeout SIGKILL."""
        refuse_unknown(request, "t")
        container, _ = self._find(request)
        if not runs(container, self._cluster.view):
            return web.Response(status=304)
        await self._want(container, TaskState.SHUTDOWN)
        await self._ended(container)
        return web.Response(status=204)

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """POST /containers/{id}/wait: the exit code, when it has ended or is removed."""
        refuse_unknown(request, "condition")
        container, _ = self._find(request)
        view = self._cluster.view
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)  # the client waits for that before it starts the container
        while container in view.container_specs and (
            container not in view.tasks or runs(container, view)
        ):
            await self._cluster.shows(lambda: container in view.tasks and not runs(container, view))
            if request.transport is None or request.transport.is_closing():
                return response
        status = view.statuses.get(container)
        code = status.exit_code if status is not None else None
        with contextlib.suppress(ConnectionError):
            await response.write(codec.dumps({"StatusCode": 0 if code is None else code}) + b"\n")
            await response.write_eof()
        return response

    async def kill(self, request: web.Request) -> web.Response:
        """POST /containers/{id}/kill?signal=."""
        refuse_unknown(request, "signal")
        container, name = self._find(request)
        task = self._cluster.view.tasks.get(container)
        if task is None or not task.node or not runs(container, self._cluster.view):
            raise ConflictError(f"container {name} does not run")
        contact = await find_worker(self._cluster.etcd, self._cluster.keys, task.node)
        async with WorkerClient(contact) as worker:
            await worker.kill(container, request.query.get("signal") or "SIGKILL")
        return web.Response(status=204)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /containers/{id}: with `force` also of one that runs."""
        refuse_unknown(request, "force", "v")
        cluster, (container, name) = self._cluster, self._find(request)
        if runs(container, cluster.view) and not flag(request, "force"):
            raise ConflictError(f"container {name} runs: stop it first, or force it")
        if container in cluster.view.tasks:
            await self._want(container, TaskState.REMOVE)
        else:
            claim = cluster.keys.name("container", name)
            await cluster.etcd.commit(
                Transaction(delete=[claim, cluster.keys.container_spec(container)])
            )
        await cluster.shows(lambda: container not in cluster.view.container_specs)
        return web.Response(status=204)

    async def _want(self, container: str, desired: TaskState) -> None:
        """Tell its worker, or the leader while it waits for a node. Raises OutOfDateError."""
        cluster = self._cluster
        for _ in range(10):  # the leader may write it at the same moment
            task = cluster.view.tasks.get(container)
            if task is None:
                raise NotFoundError(f"no such container: {container}")
            keys = cluster.keys
            key = keys.task(task.node, task.id) if task.node else keys.pending(task.id)
            version = cluster.view.version(key)
            changed = codec.encode_task(replace(task, desired=desired))
            if await cluster.etcd.put_if(key, changed, mod_revision=version) is not None:
                return
            await asyncio.sleep(0.05)
        raise OutOfDateError(f"container {container}: it was changed since: try again")

    async def _ended(self, container: str) -> None:
        view = self._cluster.view
        async with asyncio.timeout(STOP_WITHIN):
            while runs(container, view):
                await self._cluster.shows(lambda: not runs(container, view))
