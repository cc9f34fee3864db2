# SPDX-License-Identifier: Apache-2.0
"""A worker as a process of its own; beside it the test plays the leader, with a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etcd.client import Etcd, EtcdUnavailableError
from lab.etcd_server import EtcdServer
from scheduler.model.base import parse
from scheduler.model.service import TaskSpec
from scheduler.model.task import Task, TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.keys import Keys
from tests.netns.etcd.running_client import client
from tests.netns.scheduler.runtime.process_node import DEADLINE, new_runtime

KEYS = Keys("/s")
NODE = "fm-test-worker"


@dataclass
class WorkerNode:
    """A node's directories, its worker's process, and the keys of its tasks."""

    directory: Path
    server: EtcdServer
    db: Etcd
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    tasks: dict[str, Task] = field(default_factory=dict)

    def start(self) -> None:
        log = (self.directory / "worker.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-c",
                    "from scheduler.main import main; main()",
                    "run",
                    "--worker",
                ),
                *("--etcd-endpoints", self.server.client_url, "--prefix", KEYS.prefix),
                *("--node-id", NODE, "--hostname", "box", "--address", "127.0.0.1"),
                *("--state-dir", str(self.directory / "state")),
                *("--socket", str(self.directory / "run/docker.sock")),
                *("--cni-conf-dir", str(self.directory / "net.d")),
                *("--cni-bin-dir", str(self.directory / "bin")),
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def log(self) -> str:
        return (self.directory / "worker.log").read_text()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(DEADLINE)

    async def assign(self, name: str, spec: dict[str, Any], **more: Any) -> None:
        """What the leader writes for a new task."""
        template = parse(TaskSpec, spec)
        task = Task(name, "", 0, 1, NODE, created=1.0, name=name, **more)
        await self.db.put(KEYS.container_spec(name), codec.encode(template))
        await self.put(task)

    async def put(self, task: Task) -> None:
        self.tasks[task.id] = task
        await self.db.put(KEYS.task(NODE, task.id), codec.encode_task(task))

    async def desire(self, name: str, state: TaskState) -> None:
        await self.put(replace(self.tasks[name], desired=state))

    async def forget(self, name: str) -> None:
        """As the leader: both keys go."""
        for key in (KEYS.task(NODE, name), KEYS.status(NODE, name)):
            await self.db.delete(key)

    async def status(self, name: str) -> TaskStatus | None:
        try:
            found, _ = await self.db.get(KEYS.status(NODE, name))
        except EtcdUnavailableError:  # the test has stopped it
            return None
        return codec.decode_status(found.value, 0) if found is not None else None

    async def until(self, name: str, condition: Callable[[TaskStatus], bool]) -> TaskStatus:
        status = None
        try:
            async with asyncio.timeout(DEADLINE):
                while (status := await self.status(name)) is None or not condition(status):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{name} is {status}\n{self.log()}") from None
        return status

    async def reaches(self, name: str, state: TaskState) -> TaskStatus:
        return await self.until(name, lambda status: status.state is state)

    async def clean(self) -> None:
        """End the worker and whatever runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(DEADLINE)
        runtime = new_runtime(self.directory, NODE, self.directory / f"run/worker-{NODE[:12]}")
        await runtime.open()
        for pod in await runtime.list():
            await runtime.remove(pod.id)
        await runtime.close()


@contextlib.asynccontextmanager
async def worker_node(
    directory: Path, server: EtcdServer, *options: str
) -> AsyncIterator[WorkerNode]:
    """A worker that runs, beside a client of etcd."""
    async with client(server) as db:
        node = WorkerNode(directory, server, db, options)
        node.start()
        try:
            yield node
        finally:
            await node.clean()


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def shell_spec(text: str, **container: Any) -> dict[str, Any]:
    return {"ContainerSpec": {"Image": "host", "Command": ["/bin/sh", "-c", text], **container}}
