# SPDX-License-Identifier: Apache-2.0
"""Workers that only pretend to run tasks: real etcd clients, of any number of nodes at once.

async with SimulatedWorkers(etcd, keys, ["n1", "n2"]) as workers:
    ...
    await workers.silence("n1")     # as if its host lost power
    await workers.back("n1")
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from etcd.client import Etcd, EtcdError, Transaction
from etcd.retry_pause import RetryPause
from scheduler.model.base import parse
from scheduler.model.node import NodeRecord, NodeReport
from scheduler.model.task import Task, TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.follow import Batch, follow
from scheduler.store.keys import Keys

TTL = 5  # seconds
GIB = 1 << 30

Behaviour = Callable[[Task], TaskState]
"""What becomes of a task that is to run."""


def runs(_task: Task) -> TaskState:
    """It runs."""
    return TaskState.RUNNING


@dataclass(slots=True)
class SimulatedWorkers:
    """Nodes whose tasks run at once, or fail as `behaviour` says."""

    etcd: Etcd
    keys: Keys
    nodes: Iterable[str]
    behaviour: Behaviour = runs
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """By node."""
    cpus: int = 64
    memory: int = 256 * GIB
    ttl: int = TTL
    """Seconds of the etcd leases."""
    per_lease: int = 1
    """Nodes that share one etcd lease."""
    running: dict[str, Task] = field(default_factory=dict)
    """What runs now, by task id; a silent node's tasks go on."""
    told: dict[str, float] = field(default_factory=dict)
    """When a task was seen to be assigned (time.time), by its id."""
    silent: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    """Tasks that were stopped."""
    delays: dict[str, float] = field(default_factory=dict)
    """From a task's making to the moment that it was told to its node, by task id."""
    statuses: int = 0
    """Writes of states."""
    _leases: dict[str, int] = field(default_factory=dict)
    _background: list[asyncio.Task[None]] = field(default_factory=list)
    _known: dict[str, Task] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        nodes = list(self.nodes)
        for start in range(0, len(nodes), self.per_lease):
            lease = await self.etcd.grant(self.ttl)
            await self._register(nodes[start : start + self.per_lease], lease)
        self._background = [
            asyncio.create_task(self._follow(), name="workers"),
            asyncio.create_task(self._renew(), name="leases"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _register(self, nodes: list[str], lease: int) -> None:
        for start in range(0, len(nodes), 50):
            await self._register_some(nodes[start : start + 50], lease)

    async def _register_some(self, nodes: list[str], lease: int) -> None:
        reports, records = {}, {}
        for node in nodes:
            self._leases[node] = lease
            report = {
                "ID": node,
                "Addr": "192.0.2.1",
                "Description": {
                    "Hostname": node,
                    "Platform": {"Architecture": "x86_64", "OS": "linux"},
                    "Resources": {"NanoCPUs": self.cpus * 10**9, "MemoryBytes": self.memory},
                },
                "Labels": self.labels.get(node, {}),
            }
            reports[self.keys.node_status(node)] = codec.encode(parse(NodeReport, report))
            spec = {"ID": node, "Spec": {"Name": node, "Labels": self.labels.get(node, {})}}
            records[self.keys.node(node)] = codec.encode(parse(NodeRecord, spec))
        await self.etcd.commit(Transaction(put=reports, lease=lease))
        for key, value in records.items():
            await self.etcd.put_if(key, value, mod_revision=0)

    async def silence(self, node: str) -> None:
        """The node's host is gone: its lease is not renewed, nothing is written. It goes on."""
        self.silent.add(node)

    async def back(self, node: str) -> None:
        """The node is heard of again, and does what was decided meanwhile."""
        self.silent.discard(node)
        await self._register([node], await self.etcd.grant(self.ttl))
        await self._do([task for task in self._known.values() if task.node == node])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.ttl / 3)
            for lease in {lease for node, lease in self._leases.items() if node not in self.silent}:
                with contextlib.suppress(EtcdError):
                    if not await self.etcd.keep_alive(lease) and lease in self._leases.values():
                        fresh = await self.etcd.grant(self.ttl)
                        await self._register(
                            [node for node, one in self._leases.items() if one == lease], fresh
                        )

    async def _follow(self) -> None:
        async for batch in follow(self.etcd, f"{self.keys.prefix}/tasks/"):
            await self._do(self._take(batch))

    def _take(self, batch: Batch) -> list[Task]:
        if batch.complete:
            self._known.clear()
        changed = []
        for key, kv in batch.events:
            _, node, task_id = self.keys.parts(key)
            if node not in self._leases:
                continue
            if kv is None:
                self._known.pop(task_id, None)
                if node not in self.silent:
                    self.running.pop(task_id, None)
                continue
            task = codec.decode_task(kv.value, task_id, node, kv.mod_revision)
            if task_id not in self._known:
                self.told[task_id] = time.time()
            self._known[task_id] = task
            changed.append(task)
        return changed

    async def _do(self, tasks: Iterable[Task]) -> None:
        writes: dict[str, bytes] = {}
        for task in tasks:
            if task.node in self.silent:
                continue
            state = self._state(task)
            if state is not None:
                status = TaskStatus(state, time.time(), addresses=("10.5.1.2",))
                writes[self.keys.status(task.node, task.id)] = codec.encode_status(status)
        items = list(writes.items())
        self.statuses += len(items)
        groups = [dict(items[start : start + 100]) for start in range(0, len(items), 100)]
        await asyncio.gather(*map(self._put, groups))

    async def _put(self, group: dict[str, bytes]) -> None:
        pause = RetryPause()
        while True:
            try:
                await self.etcd.commit(Transaction(put=group))
            except EtcdError:
                await pause.wait()
            else:
                return

    def _state(self, task: Task) -> TaskState | None:
        """What a task becomes; None: nothing new."""
        if task.desired is not TaskState.RUNNING:
            if task.id in self.stopped:
                return None
            self.stopped.add(task.id)
            self.running.pop(task.id, None)
            return TaskState.SHUTDOWN
        if task.id in self.running:
            return None
        state = self.behaviour(task)
        if state is TaskState.RUNNING:
            self.running[task.id] = task
            self.delays[task.id] = time.time() - task.created
        return state
