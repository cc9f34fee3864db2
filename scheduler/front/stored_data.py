# SPDX-License-Identifier: Apache-2.0
"""Configs and secrets: create, ls, inspect, update of labels, rm."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from scheduler.errors import ConflictError, SpecError
from scheduler.front.answers import Route, answer, body_of, number, refuse_unknown
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.front.filters import Filters
from scheduler.front.spec_check import require_name
from scheduler.model.base import parse
from scheduler.model.objects import DataSpec, StoredData
from scheduler.model.service import TaskSpec
from scheduler.store.documents import new_id, timestamp


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the two."""

    name: str
    plural: str
    most: int
    """Bytes, as Docker's limit."""
    shows_data: bool


CONFIG = Kind("config", "configs", 1000 << 10, shows_data=True)
SECRET = Kind("secret", "secrets", 500 << 10, shows_data=False)


class StoredDataOf:
    """Handlers of one kind."""

    def __init__(self, cluster: Cluster, kind: Kind) -> None:
        self._cluster, self._kind = cluster, kind

    def routes(self) -> Iterator[Route]:
        """What is served."""
        path = f"/{self._kind.plural}"
        yield "GET", path, self.list
        yield "POST", f"{path}/create", self.create
        yield "GET", path + "/{id}", self.inspect
        yield "POST", path + "/{id}/update", self.update
        yield "DELETE", path + "/{id}", self.remove

    @property
    def _table(self) -> dict[str, StoredData]:
        view = self._cluster.view
        return view.configs if self._kind is CONFIG else view.secrets

    def _find(self, request: web.Request) -> StoredData:
        name, given = self._kind.name, request.match_info["id"]
        return self._table[find(self._table, given, name, names_of(self._cluster.view, name))]

    def _key(self, object_id: str) -> str:
        return self._cluster.keys.object(self._kind.plural, object_id)

    async def list(self, request: web.Request) -> web.Response:
        """GET /configs."""
        filters = Filters.of(request.query.get("filters", ""), "id", "name", "names", "label")
        return answer(
            [
                self._document(one)
                for one in self._table.values()
                if filters.begins("id", one.id)
                and filters.begins("name", one.spec.name)
                and filters.any_of("names", (one.spec.name,))
                and filters.has_labels(one.spec.labels)
            ]
        )

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /configs/{id}; a secret's content is not shown."""
        return answer(self._document(self._find(request)))

    async def create(self, request: web.Request) -> web.Response:
        """POST /configs/create."""
        refuse_unknown(request)
        spec = parse(DataSpec, await body_of(request))
        require_name(spec.name, self._kind.name)
        try:
            size = len(base64.b64decode(spec.data, validate=True))
        except ValueError as error:  # letters beyond ASCII are none of binascii's errors
            raise SpecError(f"Data: not base64: {error}") from None
        if not 0 < size <= self._kind.most:
            raise SpecError(f"Data: {size} bytes; a {self._kind.name} has 1 to {self._kind.most}")
        now = timestamp()
        made = StoredData(id=new_id(), spec=spec, created_at=now, updated_at=now)
        await self._cluster.documents.create(
            self._kind.name, spec.name, self._key(made.id), made, {}
        )
        await self._cluster.shows(lambda: made.id in self._table)
        return answer({"ID": made.id}, 201)

    async def update(self, request: web.Request) -> web.Response:
        """POST /configs/{id}/update?version=N: only labels can be changed."""
        refuse_unknown(request, "version")
        known, version = self._find(request), number(request, "version")
        spec = parse(DataSpec, await body_of(request))
        if spec.name not in ("", known.spec.name) or spec.data not in ("", known.spec.data):
            raise SpecError(f"{self._kind.name} {known.spec.name}: only its labels can be changed")
        changed = known.changed(spec=known.spec.changed(labels=spec.labels), updated_at=timestamp())
        await self._cluster.documents.replace(self._key(known.id), changed, version)
        await self._cluster.shows_newer(self._key(known.id), version)
        return web.Response(status=200)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /configs/{id}: not while a service has it."""
        found = self._find(request)
        for service in self._cluster.view.services.values():
            if found.id in self._used(service.spec.task_template):
                raise ConflictError(
                    f"{self._kind.name} {found.spec.name} is in use by service {service.name}"
                )
        name = self._kind.name
        await self._cluster.documents.remove(name, found.spec.name, self._key(found.id))
        await self._cluster.shows(lambda: found.id not in self._table)
        return web.Response(status=204)

    def _used(self, spec: TaskSpec) -> set[str]:
        containers = (spec.container_spec, *spec.sidecars)
        if self._kind is CONFIG:
            return {one.config_id for container in containers for one in container.configs}
        return {one.secret_id for container in containers for one in container.secrets}

    def _document(self, stored: StoredData) -> dict[str, Any]:
        spec: dict[str, Any] = {"Name": stored.spec.name, "Labels": dict(stored.spec.labels)}
        if self._kind.shows_data:
            spec["Data"] = stored.spec.data
        return {
            "ID": stored.id,
            "Version": {"Index": self._cluster.view.version(self._key(stored.id))},
            "CreatedAt": stored.created_at,
            "UpdatedAt": stored.updated_at,
            "Spec": spec,
        }
