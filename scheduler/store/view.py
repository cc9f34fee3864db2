# SPDX-License-Identifier: Apache-2.0
"""Everything below the prefix as objects, kept up to date: what managers and the front look at.

`take` applies what etcd tells. The leader also applies its own writes at once (`wrote`), as the
watch tells of them later: what is older than what is known is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from etcd.client import KeyValue
from scheduler.errors import SpecError
from scheduler.model.base import Document
from scheduler.model.node import NodeRecord, NodeReport
from scheduler.model.objects import Network, StoredData
from scheduler.model.service import Service, TaskSpec
from scheduler.model.task import Task, TaskStatus
from scheduler.store import codec
from scheduler.store.follow import Batch
from scheduler.store.keys import Keys

DOCUMENTS: dict[str, type[Document]] = {
    "services": Service,
    "nodes": NodeRecord,
    "node-status": NodeReport,
    "configs": StoredData,
    "secrets": StoredData,
    "networks": Network,
}
STEP = 250  # keys
NO_TASKS: dict[str, Task] = {}

log = logging.getLogger("scheduler.store")


@dataclass(slots=True)
class ClusterView:
    """The state of the cluster; dictionaries by id."""

    keys: Keys
    services: dict[str, Service] = field(default_factory=dict)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    reports: dict[str, NodeReport] = field(default_factory=dict)
    """Of nodes that are not silent."""
    tasks: dict[str, Task] = field(default_factory=dict)
    """Pending and assigned ones."""
    statuses: dict[str, TaskStatus] = field(default_factory=dict)
    """By task id; of tasks that are gone, too, until their workers forget them."""
    specs: dict[tuple[str, int], TaskSpec] = field(default_factory=dict)
    container_specs: dict[str, TaskSpec] = field(default_factory=dict)
    configs: dict[str, StoredData] = field(default_factory=dict)
    secrets: dict[str, StoredData] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    offers: dict[str, Any] = field(default_factory=dict)
    """What other frameworks ask for, by `<framework>/<id>`."""
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Which nodes they were given."""
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind and name to id."""
    managers: dict[str, str] = field(default_factory=dict)
    """Node id to API address, of managers that run."""
    leader: str = ""
    """Node id of the leader, as its key says."""
    by_service: dict[str, dict[str, Task]] = field(default_factory=dict)
    by_node: dict[str, dict[str, Task]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """mod_revision of every key."""
    created: dict[str, int] = field(default_factory=dict)
    """create_revision of every key of a document that the API shows."""
    revision: int = 0
    listeners: list[Callable[[str, str], None]] = field(default_factory=list)
    """Each is called with the kind and the rest of a key that changed, after the change."""
    _gone: dict[str, int] = field(default_factory=dict)
    """Keys that we deleted ourselves, with the revision, until the watch is as far."""

    def take(self, batch: Batch) -> None:
        """Apply what etcd tells."""
        for _ in self.take_steps(batch):
            pass

    def take_steps(self, batch: Batch) -> Iterator[None]:
        """The same in steps of a few milliseconds, so that an event loop can do other things.

        In between the view is neither as before nor as after.
        """
        if batch.complete:
            there = {key for key, _ in batch.events}
            for key in [key for key in self.versions if key not in there]:
                self._apply(key, None)
            self._gone.clear()
            self.versions.clear()  # it may be another history
        for number, (key, kv) in enumerate(batch.events, 1):
            if not number % STEP:
                yield
            if kv is None:
                if self.versions.get(key, 0) <= batch.revision:
                    self._apply(key, None)
            elif kv.mod_revision > self.versions.get(key, -1) and (
                kv.mod_revision > self._gone.get(key, -1)
            ):
                self._apply(key, kv)
        self.revision = batch.revision
        if self._gone:
            self._gone = {key: at for key, at in self._gone.items() if at > batch.revision}

    def wrote(self, puts: Iterable[tuple[str, bytes]], deleted: Iterable[str], at: int) -> None:
        """Apply a transaction of our own, done at revision `at`, before the watch tells of it."""
        if at <= self.revision:
            return  # the watch was faster
        for key, value in puts:
            self._apply(key, KeyValue(key, value, at))
        for key in deleted:
            self._apply(key, None)
            self._gone[key] = at

    def version(self, key: str) -> int:
        """A key's mod_revision (Docker's Version.Index); 0: it is not there."""
        return self.versions.get(key, 0)

    def tasks_of(self, service: str) -> dict[str, Task]:
        """A service's tasks by id."""
        return self.by_service.get(service, NO_TASKS)

    def tasks_on(self, node: str) -> dict[str, Task]:
        """A node's tasks by id."""
        return self.by_node.get(node, NO_TASKS)

    def spec_of(self, task: Task) -> TaskSpec | None:
        """What a task runs."""
        if not task.service:
            return self.container_specs.get(task.id)
        return self.specs.get((task.service, task.spec_version))

    # -- applying --------------------------------------------------------------------

    def _apply(self, key: str, kv: KeyValue | None) -> None:
        kind, *rest = self.keys.parts(key)
        if kv is None:
            self.versions.pop(key, None)
            self.created.pop(key, None)
        else:
            self.versions[key] = kv.mod_revision
            if kind in DOCUMENTS:
                self.created[key] = kv.create_revision
        try:
            self._apply_parts(kind, rest, kv)
        except (SpecError, ValueError, UnicodeDecodeError) as error:
            log.warning("skipping %s: %s", key, error)
            return
        for listener in self.listeners:
            listener(kind, "/".join(rest))

    def _apply_parts(self, kind: str, rest: list[str], kv: KeyValue | None) -> None:
        match kind, rest:
            case "tasks", [node, task]:
                self._apply_task(task, node, kv)
            case "pending", [task]:
                self._apply_task(task, "", kv)
            case "status", [_, task]:
                self._set(
                    self.statuses, task, kv and codec.decode_status(kv.value, kv.mod_revision)
                )
            case "specs", ["container", task]:
                self._set(self.container_specs, task, kv and codec.decode(TaskSpec, kv.value))
            case "specs", [service, number]:
                spec = kv and codec.decode(TaskSpec, kv.value)
                self._set(self.specs, (service, int(number)), spec)
            case "names", [of, name]:
                self._set(self.names, (of, name), kv and kv.value.decode())
            case "managers", [node]:
                self._set(self.managers, node, kv and kv.value.decode())
            case "offers", [_, _]:
                self._set(self.offers, "/".join(rest), kv and codec.loads(kv.value))
            case "grants", [_, _]:
                grant = codec.loads(kv.value) if kv is not None else None
                known = grant if isinstance(grant, dict) else None
                self._set(self.grants, "/".join(rest), known)
            case "leader", []:
                self.leader = kv.value.decode() if kv is not None else ""
            case _, [object_id] if kind in DOCUMENTS:
                document = kv and codec.decode(DOCUMENTS[kind], kv.value)
                self._set(self._table(kind), object_id, document)
            case _:
                log.debug("unknown key %s/%s", kind, "/".join(rest))

    def _table(self, kind: str) -> dict[str, Any]:
        tables: dict[str, dict[str, Any]] = {
            "services": self.services,
            "nodes": self.nodes,
            "node-status": self.reports,
            "configs": self.configs,
            "secrets": self.secrets,
            "networks": self.networks,
        }
        return tables[kind]

    @staticmethod
    def _set(table: dict[Any, Any], key: Any, value: Any) -> None:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def _apply_task(self, task_id: str, node: str, kv: KeyValue | None) -> None:
        old = self.tasks.get(task_id)
        if kv is None:
            if old is not None and old.node == node:  # else it moved: pending became assigned
                del self.tasks[task_id]
                self._forget(old)
            return
        task = codec.decode_task(kv.value, task_id, node, kv.mod_revision)
        if old is not None:
            if old.node and not node:
                return  # assigned already: the pending key goes in the same transaction
            self._forget(old)
            if old.service != task.service:
                task = replace(task, service=old.service)
        self.tasks[task_id] = task
        self.by_service.setdefault(task.service, {})[task_id] = task
        self.by_node.setdefault(task.node, {})[task_id] = task

    def _forget(self, task: Task) -> None:
        for index, value in ((self.by_service, task.service), (self.by_node, task.node)):
            tasks = index.get(value)
            if tasks is not None and tasks.pop(task.id, None) is not None and not tasks:
                del index[value]
