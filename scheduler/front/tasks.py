# SPDX-License-Identifier: Apache-2.0
"""Tasks: GET /tasks, /tasks/{id}."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from aiohttp import web

from scheduler.errors import NotFoundError, SpecError
from scheduler.front.answers import Route, answer
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.front.filters import Filters
from scheduler.front.nodes import node_names
from scheduler.front.task_documents import task_document
from scheduler.model.task import Task

DESIRED = {"running": "running", "shutdown": "shutdown", "accepted": "running"}


class Tasks:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/tasks", self.list
        yield "GET", "/tasks/{id}", self.inspect

    async def list(self, request: web.Request) -> web.Response:
        """GET /tasks."""
        filters = Filters.of(
            request.query.get("filters", ""),
            *("id", "name", "service", "node", "label", "desired-state", "runtime", "_up-to-date"),
        )
        for state in filters.values.get("desired-state", ()):
            if state not in DESIRED:
                raise SpecError(f"filter desired-state={state}: it is running, shutdown, accepted")
        view = self._cluster.view
        return answer(
            [
                task_document(task, view)
                for task in self._candidates(filters)
                if task.service and self._passes(task, filters)
            ]
        )

    def _candidates(self, filters: Filters) -> Iterable[Task]:
        """Tasks of the services and nodes that are asked for, not all of the cluster's."""
        view = self._cluster.view
        if "service" in filters.values:
            names = names_of(view, "service")
            ids = {
                _found(view.services, one, "service", names) for one in filters.values["service"]
            }
            found = [task for one in ids for task in view.tasks_of(one).values()]
        else:
            found = list(view.tasks.values())
        if "node" in filters.values:
            nodes = {
                _found(view.nodes, one, "node", node_names(view)) for one in filters.values["node"]
            }
            found = [task for task in found if task.node in nodes]
        return found

    def _passes(self, task: Task, filters: Filters) -> bool:
        view = self._cluster.view
        service = view.services.get(task.service)
        name = f"{service.name if service else task.service}.{task.place}"
        current = service is not None and task.spec_version == service.spec_version
        labels = service.spec.task_template.container_spec.labels if service else {}
        return (
            filters.begins("id", task.id)
            and filters.begins("name", name)
            and filters.has_labels(labels)
            and filters.any_of("runtime", ("container",))
            and filters.any_of("_up-to-date", ("true", "1") if current else ("false", "0"))
            and (
                "desired-state" not in filters.values
                or any(DESIRED[one] == (_shown(task)) for one in filters.values["desired-state"])
            )
        )

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /tasks/{id}."""
        view = self._cluster.view
        task = find(view.tasks, request.match_info["id"], "task", {})
        return answer(task_document(view.tasks[task], view))


def _shown(task: Task) -> str:
    return "running" if task.desired.docker == "running" else "shutdown"


def _found(table: Mapping[str, object], given: str, what: str, names: Mapping[str, str]) -> str:
    """The id, or what was given: nothing has it, so the list is empty, as Docker's is."""
    try:
        return find(table, given, what, names)
    except NotFoundError:
        return given
