# SPDX-License-Identifier: Apache-2.0
"""The worker's server.

GET  /v1/tasks/ID/logs?container=main&follow=1&tail=N   a JSON object a line
GET  /v1/tasks/ID/stats                                 a JSON object
POST /v1/tasks/ID/kill?signal=SIGHUP
GET  /v1/tasks/ID/exec                                  websocket: see `_exec`
GET  /metrics                                           for Prometheus
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import WSMsgType, web

from scheduler.errors import NotFoundError, SchedulerError
from scheduler.model.task import TaskState
from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import ExecConfig, ExecProcess, Runtime
from scheduler.worker.api.certificate import server_context
from scheduler.worker.api.contact import WorkerContact
from scheduler.worker.metrics import CONTENT_TYPE, exposition
from scheduler.worker.pod_config import MAIN
from scheduler.worker.runner import TaskRunner

STREAMS = {"stdout": b"\x01", "stderr": b"\x02"}
POD_INTERVAL = 0.05  # seconds between looks whether a task's pod is there
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WorkerApi:
    """Serves what the runtime knows of this node's tasks."""

    def __init__(self, runtime: Runtime, runners: Mapping[str, TaskRunner], token: str) -> None:
        self._runtime, self._runners, self._token = runtime, runners, token
        self._runner: web.AppRunner | None = None
        self._contact = WorkerContact("", token, "")

    async def start(self, address: str) -> None:
        """Listen on a free port of an address of this node. Raises OSError."""
        context, fingerprint = server_context()
        app = web.Application(middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/v1/tasks/{task}/logs", self._logs),
                web.get("/v1/tasks/{task}/stats", self._stats),
                web.post("/v1/tasks/{task}/kill", self._kill),
                web.get("/v1/tasks/{task}/exec", self._exec),
                web.get("/metrics", self.metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, 0, ssl_context=context).start()
        host, port = self._runner.addresses[0][:2]
        where = f"[{host}]" if ":" in host else host
        self._contact = WorkerContact(f"https://{where}:{port}", self._token, fingerprint)

    def contact(self) -> bytes:
        """What managers need, for etcd."""
        return self._contact.encode()

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return web.Response(status=401, text="the token in etcd is wanted\n")
        try:
            return await handler(request)
        except NotFoundError as error:
            return web.Response(status=404, text=f"{error}\n")
        except SchedulerError as error:
            return web.Response(status=409, text=f"{error}\n")
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")

    def _task(self, request: web.Request) -> str:
        task = request.match_info["task"]
        if task not in self._runners:
            raise NotFoundError(f"task {task} is not on this node")
        return task

    def _has_pod(self, task: str) -> bool:
        """Whether there is output to follow, or will be none."""
        runner = self._runners.get(task)
        return runner is None or runner.status.state >= TaskState.STARTING

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        task, query = self._task(request), request.query
        tail = int(query["tail"]) if "tail" in query else None
        follow = query.get("follow") == "1"
        while follow and not self._has_pod(task):  # noqa: ASYNC110 # a task seldom waits long
            await asyncio.sleep(POD_INTERVAL)
        answer = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await answer.prepare(request)
        lines = self._runtime.logs(task, query.get("container", MAIN), follow=follow, tail=tail)
        async for line in lines:
            data = base64.b64encode(line.data).decode()
            text = json.dumps({"time": line.time, "stream": line.stream, "data": data})
            try:
                await answer.write(text.encode() + b"\n")
            except ConnectionError:
                return answer  # the manager has gone
        with contextlib.suppress(ConnectionError):
            await answer.write_eof()
        return answer

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(await self._runtime.stats(self._task(request))))

    async def _kill(self, request: web.Request) -> web.Response:
        await self._runtime.kill(self._task(request), request.query.get("signal", "SIGKILL"))
        return web.Response(status=204)

    async def metrics(self, _request: web.Request) -> web.Response:
        """The page for Prometheus."""
        body = await exposition(self._runtime, self._runners)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    # -- exec --------------------------------------------------------------------------

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """Text: the ExecConfig first, then `{"resize": [rows, columns]}`. Binary: input.

        An empty binary message ends the input.
        To the client binary: a byte, 1 or 2, that says which stream, and output. Text, the last:
        `{"exit": code}` or `{"error": why it did not start}`.
        """
        task = self._task(request)
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        given = await socket.receive_json()
        container = str(given.pop("container", MAIN))
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            process = await self._runtime.exec(task, container, ExecConfig(**given))
        except (RuntimeCallError, TypeError) as error:
            await socket.send_json({"error": str(error)})
            await socket.close()
            return socket
        reading = asyncio.create_task(self._input(socket, process))
        try:
            while (piece := await process.read()) is not None:
                await socket.send_bytes(STREAMS[piece[0]] + piece[1])
            await socket.send_json({"exit": await process.wait()})
        except ConnectionError:
            pass
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await process.kill()
            with contextlib.suppress(ConnectionError):
                await socket.close()
        return socket

    async def _input(self, socket: web.WebSocketResponse, process: ExecProcess) -> None:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await process.write(message.data)
            elif message.type is WSMsgType.TEXT:
                order: dict[str, Any] = json.loads(message.data)
                rows, columns = order["resize"]
                await process.resize(int(rows), int(columns))
        await process.kill()  # the client has gone
