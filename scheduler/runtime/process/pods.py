# SPDX-License-Identifier: Apache-2.0
"""One pod as the worker sees it: the connection to its supervisor, and its last status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process.messages import status_from_json
from scheduler.runtime.process.supervisor import POD, SOCKET, STATUS
from scheduler.runtime.protocol import ContainerState, PodStatus

MAX_LINE = 16 * 1024 * 1024
KILLED = 137
SUPERVISOR_LOST = "the supervisor of the pod was killed, and the kernel ended its containers"


@dataclass(slots=True)
class SupervisedPod:
    """A pod's directory, connection and status."""

    directory: Path
    meta: dict[str, Any]
    addresses: tuple[tuple[str, str], ...] = ()
    """Network and address with prefix length."""
    supervisor: int = 0
    containers: dict[str, Any] = field(default_factory=dict)
    alive: bool = False
    removed: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _writer: asyncio.StreamWriter | None = None
    _reader: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, directory: Path) -> SupervisedPod:
        """From what the directory holds; raises OSError or ValueError where it is no pod's."""
        return cls(directory, json.loads((directory / POD).read_text()))

    async def connect(self, lost: Callable[[SupervisedPod], None], *, first: bool = False) -> bool:
        """Connect to the supervisor; False: it is gone, and the status says so.

        Raises RuntimeCallError where it was only now started, and is gone.
        """
        self._read_status_file()
        try:
            reader, writer = await _open(self.directory)
            line = await asyncio.wait_for(reader.readline(), 10)
            if not line:
                raise ConnectionResetError  # as if it had refused
        except (OSError, TimeoutError):
            self._lost()
            if first:
                raise RuntimeCallError(
                    f"pod {self.meta['id']}: its supervisor ended at once"
                ) from None
            return False
        self._apply(line)
        self.alive, self._writer = True, writer
        self._reader = asyncio.create_task(self._follow(reader, lost))
        return True

    async def _follow(
        self, reader: asyncio.StreamReader, lost: Callable[[SupervisedPod], None]
    ) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                self._apply(line)
                async with self.changed:
                    self.changed.notify_all()
        self._read_status_file()
        self._lost()
        async with self.changed:
            self.changed.notify_all()
        lost(self)

    def _apply(self, line: bytes) -> None:
        data = json.loads(line)
        self.supervisor = data["pid"]
        self.containers = {c["name"]: c for c in data["containers"]}

    def _read_status_file(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._apply((self.directory / STATUS).read_bytes())

    def _lost(self) -> None:
        self.alive = False
        for container in self.containers.values():
            if container["state"] != ContainerState.EXITED:
                container.update(
                    state=str(ContainerState.EXITED),
                    pid=0,
                    exit_code=KILLED,
                    error=SUPERVISOR_LOST,
                )

    async def send(self, **command: Any) -> None:
        """Give the supervisor a command; raises RuntimeCallError where it is gone."""
        if not self.alive or self._writer is None:
            raise RuntimeCallError(f"pod {self.meta['id']}: its supervisor is gone")
        try:
            self._writer.write(json.dumps(command).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise RuntimeCallError(f"pod {self.meta['id']}: {error.strerror}") from None

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for something that a change of the status brings; False: it did not come."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    async def end_supervisor(self, seconds: float) -> None:
        """Ask it to end itself and its containers; kill it where it does not."""
        with contextlib.suppress(RuntimeCallError):
            await self.send(op="quit")
        if self.alive and not await self.until(lambda: not self.alive, seconds):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.supervisor, signal.SIGKILL)
            await self.until(lambda: not self.alive, seconds)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def status(self) -> PodStatus:
        """What is known now."""
        return PodStatus(
            self.meta["id"],
            self.meta["name"],
            tuple(map(status_from_json, self.containers.values())),
            tuple(address for _, address in self.addresses),
            self.meta["created_at"],
            self.addresses,
            self.meta["labels"],
        )


async def _open(directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect through the directory's descriptor: a socket's path may have 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, f"/proc/self/fd/{descriptor}/{SOCKET}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(descriptor)
    return await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE)
