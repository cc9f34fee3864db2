# SPDX-License-Identifier: Apache-2.0
"""Services: create, ls, inspect, update, rollback, rm."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from scheduler.errors import SpecError
from scheduler.front.answers import Route, answer, body_of, flag, number, refuse_unknown
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.front.filters import Filters
from scheduler.front.networks import STANDING
from scheduler.front.service_documents import mode_name, service_document
from scheduler.front.spec_check import completed, require_possible
from scheduler.manager.update import rolled_back
from scheduler.model.base import parse
from scheduler.model.service import Service, ServiceSpec
from scheduler.store import codec
from scheduler.store.documents import new_id, timestamp


class Services:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/services", self.list
        yield "POST", "/services/create", self.create
        yield "GET", "/services/{id}", self.inspect
        yield "POST", "/services/{id}/update", self.update
        yield "DELETE", "/services/{id}", self.remove

    def find(self, given: str) -> Service:
        """A service by id, name or the beginning of its id. Raises NotFoundError."""
        view = self._cluster.view
        return view.services[find(view.services, given, "service", names_of(view, "service"))]

    async def list(self, request: web.Request) -> web.Response:
        """GET /services."""
        refuse_unknown(request, "filters", "status")
        filters = Filters.of(request.query.get("filters", ""), "id", "name", "label", "mode")
        view = self._cluster.view
        return answer(
            [
                service_document(one, view, status=flag(request, "status"))
                for one in view.services.values()
                if filters.begins("id", one.id)
                and filters.begins("name", one.name)
                and filters.has_labels(one.spec.labels)
                and filters.any_of("mode", (mode_name(one),))
            ]
        )

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /services/{id}."""
        refuse_unknown(request, "insertDefaults")
        service = self.find(request.match_info["id"])
        whole = flag(request, "insertDefaults")
        return answer(service_document(service, self._cluster.view, whole=whole))

    async def create(self, request: web.Request) -> web.Response:
        """POST /services/create."""
        refuse_unknown(request)
        _refuse_registry_login(request)
        cluster = self._cluster
        spec = completed(parse(ServiceSpec, await body_of(request)), f"service-{new_id()[:12]}")
        self._require_possible(spec)
        service = await cluster.documents.create_service(spec)
        await cluster.shows(lambda: service.id in cluster.view.services)
        return answer({"ID": service.id}, 201)

    async def update(self, request: web.Request) -> web.Response:
        """POST /services/{id}/update?version=N: the whole spec, or `rollback=previous`."""
        refuse_unknown(request, "version", "rollback", "registryAuthFrom")
        _refuse_registry_login(request)
        cluster, service = self._cluster, self.find(request.match_info["id"])
        version, rollback = number(request, "version"), request.query.get("rollback", "")
        key = cluster.keys.service(service.id)
        if rollback not in ("", "previous"):
            raise SpecError(f"rollback={rollback}: it is previous")
        if rollback:
            if service.previous_spec is None:
                raise SpecError(f"service {service.name} does not have a previous spec")
            back = rolled_back(service, "rollback in progress", timestamp())
            await cluster.documents.replace(key, back, version)
        else:
            spec = completed(parse(ServiceSpec, await body_of(request)), service.name)
            if mode_name(Service(id="", spec=spec)) != mode_name(service):
                raise SpecError("Mode: a service's mode can't be changed: make a new service")
            self._require_possible(spec)
            await cluster.documents.update_service(service, spec, version)
        await cluster.shows_newer(key, version)
        return answer({"Warnings": None})

    def _require_possible(self, spec: ServiceSpec) -> None:
        view = self._cluster.view
        names = names_of(view, "network")
        require_possible(spec, view, STANDING.keys() | view.networks.keys() | names.keys())

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /services/{id}."""
        cluster, service = self._cluster, self.find(request.match_info["id"])
        keys = cluster.keys
        await cluster.documents.remove(
            "service", service.name, keys.service(service.id), keys.specs_of(service.id)
        )
        await cluster.shows(lambda: service.id not in cluster.view.services)
        return web.Response(status=200)


def _refuse_registry_login(request: web.Request) -> None:
    """Raise SpecError for `--with-registry-auth`: nodes have their own logins."""
    given = request.headers.get("X-Registry-Auth", "")
    try:
        login: Any = codec.loads(base64.urlsafe_b64decode(given + "==")) if given else {}
    except binascii.Error:
        login = {}
    if isinstance(login, dict) and any(login.values()):
        raise SpecError(
            "--with-registry-auth is not supported: log in to the registry on the nodes"
        )
