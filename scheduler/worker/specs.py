# SPDX-License-Identifier: Apache-2.0
"""What a task needs to start, read from etcd: its spec, its service's name, secrets and configs.

Versions of a spec and names of services never change, so the last ones are remembered: of a
service with many tasks on a node, each is read once. Secrets are read for each task.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from etcd.client import Etcd, EtcdError
from etcd.retry_pause import RetryPause
from scheduler.errors import SpecError
from scheduler.model.objects import StoredData
from scheduler.model.service import Service, TaskSpec
from scheduler.model.task import Task
from scheduler.store import codec
from scheduler.store.keys import Keys
from scheduler.worker.pod_config import Surroundings, references

log = logging.getLogger("scheduler.worker")
REMEMBERED = 256


class Specs:
    """Reads for one node."""

    def __init__(self, etcd: Etcd, keys: Keys, around: Surroundings) -> None:
        self._etcd, self._keys, self._around = etcd, keys, around
        self._specs: dict[str, TaskSpec] = {}
        self._names: dict[str, str] = {}

    async def fetch(self, task: Task) -> tuple[TaskSpec, Surroundings]:
        """All of it; waits while etcd is away. Raises SpecError."""
        pause = RetryPause()
        while True:
            try:
                return await self._read(task)
            except EtcdError as error:
                log.warning("task %s waits for etcd: %s", task.id, error)
                await pause.wait()

    async def _read(self, task: Task) -> tuple[TaskSpec, Surroundings]:
        spec = await self._spec(task)
        around = self._around
        if task.service:
            around = replace(around, service_name=await self._service_name(task.service))
        data = {}
        for kind, ids in zip(("secrets", "configs"), references(spec), strict=True):
            for object_id in ids:
                found, _ = await self._etcd.get(self._keys.object(kind, object_id))
                if found is not None:
                    data[object_id] = codec.decode(StoredData, found.value).spec.data
        return spec, replace(around, data=data)

    async def _spec(self, task: Task) -> TaskSpec:
        if not task.service:
            return await self._read_spec(self._keys.container_spec(task.id))
        key = self._keys.spec(task.service, task.spec_version)
        if key not in self._specs:
            spec = await self._read_spec(key)
            while len(self._specs) >= REMEMBERED:
                del self._specs[next(iter(self._specs))]
            self._specs[key] = spec
        return self._specs[key]

    async def _read_spec(self, key: str) -> TaskSpec:
        found, _ = await self._etcd.get(key)
        if found is None:
            raise SpecError(f"the task's spec is gone ({key})")
        return codec.decode(TaskSpec, found.value)

    async def _service_name(self, service: str) -> str:
        if service not in self._names:
            found, _ = await self._etcd.get(self._keys.service(service))
            if found is None:
                return ""
            while len(self._names) >= REMEMBERED:
                del self._names[next(iter(self._names))]
            self._names[service] = codec.decode(Service, found.value).spec.name
        return self._names[service]
