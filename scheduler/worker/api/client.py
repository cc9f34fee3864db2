# SPDX-License-Identifier: Apache-2.0
"""A manager's side of the worker's server."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import aiohttp

from scheduler.errors import NotFoundError, SchedulerError
from scheduler.runtime.protocol import (
    ContainerStats,
    ExecConfig,
    InterfaceStats,
    LogLine,
    PodStats,
)
from scheduler.worker.api.contact import WorkerContact
from scheduler.worker.pod_config import MAIN

STREAMS = {1: "stdout", 2: "stderr"}
CONNECT_TIMEOUT = 5.0  # seconds
MAX_LINE = 1 << 20


class WorkerClient:
    """A connection to one worker; an async context manager. Every call may raise SchedulerError."""

    def __init__(self, contact: WorkerContact) -> None:
        self._contact = contact
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        fingerprint = aiohttp.Fingerprint(bytes.fromhex(self._contact.fingerprint))
        self._session = aiohttp.ClientSession(
            self._contact.url,
            connector=aiohttp.TCPConnector(ssl=fingerprint),
            headers={"Authorization": f"Bearer {self._contact.token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            read_bufsize=MAX_LINE,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _call(
        self, method: str, path: str, **query: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None  # noqa: S101 # used inside of `async with`
        try:
            async with self._session.request(method, path, params=query) as answer:
                if answer.status == 404:
                    raise NotFoundError((await answer.text()).strip())
                if answer.status >= 400:
                    raise SchedulerError(f"worker: {(await answer.text()).strip()}")
                yield answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SchedulerError(f"the worker at {self._contact.url}: {error}") from None

    async def logs(
        self, task: str, container: str = MAIN, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """Kept output, and with `follow` what comes until the task ends."""
        query = {"container": container, "follow": "1" if follow else "0"}
        if tail is not None:
            query["tail"] = str(tail)
        async with self._call("GET", f"/v1/tasks/{task}/logs", **query) as answer:
            async for line in answer.content:
                found = json.loads(line)
                data = base64.b64decode(found["data"])
                yield LogLine(found["time"], found["stream"], data)

    async def stats(self, task: str) -> PodStats:
        """What the task uses."""
        async with self._call("GET", f"/v1/tasks/{task}/stats") as answer:
            found = await answer.json()
        return PodStats(
            found["id"],
            tuple(ContainerStats(**c) for c in found["containers"]),
            tuple(InterfaceStats(**i) for i in found["interfaces"]),
        )

    async def kill(self, task: str, signal: str) -> None:
        """Send a signal to the task's containers."""
        async with self._call("POST", f"/v1/tasks/{task}/kill", signal=signal):
            pass

    async def exec(self, task: str, config: ExecConfig, container: str = MAIN) -> RemoteExec:
        """Run a command in a container."""
        assert self._session is not None  # noqa: S101 # used inside of `async with`
        try:
            socket = await self._session.ws_connect(f"/v1/tasks/{task}/exec", heartbeat=20)
        except aiohttp.WSServerHandshakeError as error:
            kind = NotFoundError if error.status == 404 else SchedulerError
            raise kind(f"exec in task {task}: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SchedulerError(f"the worker at {self._contact.url}: {error}") from None
        await socket.send_json({**asdict(config), "container": container})
        return RemoteExec(socket)


class RemoteExec:
    """Offers what `runtime.protocol.ExecProcess` says, on another node."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._code: int | None = None

    async def read(self) -> tuple[str, bytes] | None:
        """Next output, None at the end. Raises SchedulerError: it did not start."""
        while self._code is None:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                return STREAMS[message.data[0]], message.data[1:]
            if message.type is not aiohttp.WSMsgType.TEXT:
                self._code = 137  # the worker or the connection has gone
                break
            told: dict[str, Any] = json.loads(message.data)
            if "error" in told:
                self._code = 126
                raise SchedulerError(str(told["error"]))
            self._code = int(told["exit"])
        return None

    async def write(self, data: bytes) -> None:
        """Give it input; without bytes: the input ends."""
        with contextlib.suppress(ConnectionError):
            await self._socket.send_bytes(data)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal's new size."""
        with contextlib.suppress(ConnectionError):
            await self._socket.send_json({"resize": [rows, columns]})

    async def wait(self) -> int:
        """Exit code."""
        while await self.read() is not None:
            pass
        return self._code if self._code is not None else 137

    async def kill(self) -> None:
        """End it: the worker ends what its client has left."""
        await self._socket.close()
