# SPDX-License-Identifier: Apache-2.0
"""The whole: real etcd, a real manager process, and a process of workers that pretend to run.

What is measured, from the client's side:

- fill: services are made until the cluster has the tasks; seconds until all run
- start delay: one more service of one task; from before its creation to its state "running" in etcd
- recovery: nodes fall silent; seconds until as many tasks as before run on the others
- etcd writes per task (all revisions of the fill, the workers' too), memory of the manager
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.scheduler.workers import SimulatedWorkers
from etcd.client import Etcd
from lab.etcd_server import EtcdServer
from scheduler.model.base import parse
from scheduler.model.service import ServiceSpec
from scheduler.model.task import Task, TaskState
from scheduler.store.documents import Documents
from scheduler.store.follow import follow
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

KEYS = Keys("/flatmesh-scheduler")
ROOT = Path(__file__).parents[2]
SAMPLES = 200
PAUSE = 0.02  # seconds between two samples
TIMEOUT = 900.0


@dataclass(slots=True)
class Outcome:
    """Figures of one run."""

    nodes: int
    tasks: int
    fill: float = 0.0
    writes: float = 0.0
    api: list[float] = field(default_factory=list)
    """Seconds that creating a service took."""
    delays: list[float] = field(default_factory=list)
    recovery: float = 0.0
    silent: int = 0
    memory: int = 0
    """KiB of the manager."""

    @property
    def line(self) -> str:
        """For people."""
        text = (
            f"{self.tasks} tasks on {self.nodes} nodes: filled in {self.fill:.1f} s, "
            f"{self.tasks / self.fill:.0f} tasks a second, {self.writes:.2f} etcd revisions per "
            f"task; then create p50 {percentile(self.api, 50):.1f} ms, start delay "
            f"p50 {percentile(self.delays, 50):.0f}, p99 {percentile(self.delays, 99):.0f} ms; "
            f"manager {self.memory / 1024:.0f} MiB"
        )
        if self.silent:
            text += f"; {self.silent} silent nodes: recovered after {self.recovery:.1f} s"
        return text


def percentile(seconds: list[float], which: int) -> float:
    """A percentile, in milliseconds."""
    ordered = sorted(seconds)
    if which == 50:
        return 1000 * median(ordered)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * which // 100)]


def spec(name: str, replicas: int) -> ServiceSpec:
    """A small service."""
    return parse(
        ServiceSpec,
        {
            "Name": name,
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "pretend"},
                "Resources": {"Reservations": {"NanoCPUs": 10**8, "MemoryBytes": 64 << 20}},
            },
        },
    )


async def measure(nodes: int, tasks: int, *, per_service: int = 100, silent: int = 0) -> Outcome:
    """Run it on an etcd of its own."""
    outcome = Outcome(nodes, tasks, silent=silent)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.7"
        server = EtcdServer(
            directory / "etcd",
            f"http://{address}:2379",
            f"http://{address}:2380",
            die_with_caller=True,
        )
        stack.callback(server.stop)
        server.start()
        arguments = ["run", "--manager", "--node-id", "m1", "--etcd-endpoints", server.client_url]
        arguments += ["--state-dir", str(directory), "--socket", str(directory / "docker.sock")]
        manager = stack.enter_context(_process("scheduler", *arguments))
        workers = stack.enter_context(
            _process("bench.scheduler.pretend", server.client_url, str(nodes), str(silent))
        )
        async with Etcd([server.client_url]) as etcd, _watched(etcd) as view:
            await _measure(etcd, view, outcome, per_service)
            outcome.memory = _memory(manager.pid)
            if silent:
                workers.send_signal(signal.SIGUSR1)
                started = time.monotonic()
                gone = {f"n{number}" for number in range(silent)}
                await _until(lambda: _running(view, gone) >= tasks + SAMPLES, "recovered")
                outcome.recovery = time.monotonic() - started
    return outcome


async def _measure(etcd: Etcd, view: ClusterView, outcome: Outcome, per_service: int) -> None:
    documents = Documents(etcd, KEYS)
    await _until(lambda: len(view.reports) == outcome.nodes, "nodes register")
    _, before = await etcd.get("/")
    started = time.monotonic()
    for number in range(outcome.tasks // per_service):
        await documents.create_service(spec(f"fill-{number}", per_service))
    await _until(lambda: _running(view) == outcome.tasks, "all tasks run")
    outcome.fill = time.monotonic() - started
    _, after = await etcd.get("/")
    outcome.writes = (after - before) / outcome.tasks
    waiting: dict[str, float] = {}

    def told(kind: str, rest: str) -> None:
        if kind != "status":
            return
        task = view.tasks.get(rest.rpartition("/")[2])
        status = view.statuses.get(task.id) if task is not None else None
        if task is not None and status is not None and status.state is TaskState.RUNNING:
            since = waiting.pop(task.service, None)
            if since is not None:
                outcome.delays.append(time.monotonic() - since)

    view.listeners.append(told)
    for number in range(SAMPLES):
        since = time.monotonic()
        service = await documents.create_service(spec(f"sample-{number}", 1))
        outcome.api.append(time.monotonic() - since)
        if _runs(view, service.id):
            outcome.delays.append(time.monotonic() - since)
        else:
            waiting[service.id] = since
        await asyncio.sleep(PAUSE)
    await _until(lambda: not waiting, "samples run")


def _runs(view: ClusterView, service: str) -> bool:
    return any(_is_running(view, task) for task in view.tasks_of(service).values())


def _is_running(view: ClusterView, task: Task) -> bool:
    status = view.statuses.get(task.id)
    return status is not None and status.state is TaskState.RUNNING


def _running(view: ClusterView, without: set[str] | None = None) -> int:
    without = without or set()
    return sum(task.node not in without and _is_running(view, task) for task in view.tasks.values())


@contextlib.asynccontextmanager
async def _watched(etcd: Etcd) -> AsyncIterator[ClusterView]:
    view = ClusterView(KEYS)

    async def look() -> None:
        async for batch in follow(etcd, KEYS.everything):
            view.take(batch)

    task = asyncio.create_task(look())
    try:
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(condition: object, what: str) -> None:
    assert callable(condition)  # noqa: S101 - a type for mypy
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {TIMEOUT:.0f} s: {what}")
        await asyncio.sleep(0.1)


@contextlib.contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stderr=None if os.environ.get("FLATMESH_BENCH_LOG") else subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


async def pretend(url: str, nodes: int, silent: int) -> None:
    """Be the workers of nodes n0, n1, ...; at SIGUSR1 the first `silent` ones fall silent."""
    names = [f"n{number}" for number in range(nodes)]
    ttl = 5 if nodes <= 1000 else 20  # one process renews for all: it is not always in time
    async with Etcd([url]) as etcd:
        gone = SimulatedWorkers(etcd, KEYS, names[:silent], per_lease=len(names), ttl=ttl)
        rest = SimulatedWorkers(etcd, KEYS, names[silent:], per_lease=len(names), ttl=ttl)
        async with gone, rest:

            def silence() -> None:
                gone.silent.update(names[:silent])

            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, silence)
            await asyncio.Event().wait()
