# SPDX-License-Identifier: Apache-2.0
"""Networks: names that services ask for. All of them are the one flat network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from scheduler.errors import ConflictError, SpecError
from scheduler.front.answers import Route, answer, body_of, refuse_unknown
from scheduler.front.cluster import Cluster, find, names_of
from scheduler.front.filters import Filters
from scheduler.front.spec_check import require_name
from scheduler.model.objects import Network
from scheduler.store.documents import new_id, timestamp

FLAT, HOST = "flatmesh", "host"
STANDING = {
    FLAT: Network(id=FLAT, name=FLAT, driver="flatmesh"),
    HOST: Network(id=HOST, name=HOST, driver="host"),
}
"""Networks that are always there."""
DRIVERS = ("", "overlay", "flatmesh")
KNOWN = {
    *("Name", "Driver", "CheckDuplicate", "Labels", "Attachable", "Scope", "Options"),
}


class Networks:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/networks", self.list
        yield "POST", "/networks/create", self.create
        yield "GET", "/networks/{id}", self.inspect
        yield "DELETE", "/networks/{id}", self.remove

    def _every(self) -> dict[str, Network]:
        return {**STANDING, **self._cluster.view.networks}

    def find(self, given: str) -> Network:
        """A network by name or id. Raises NotFoundError."""
        every = self._every()
        return every[find(every, given, "network", names_of(self._cluster.view, "network"))]

    async def list(self, request: web.Request) -> web.Response:
        """GET /networks."""
        filters = Filters.of(
            request.query.get("filters", ""), "id", "name", "driver", "label", "scope", "type"
        )
        found = []
        for one in self._every().values():
            kind = "builtin" if one.id in STANDING else "custom"
            if (
                filters.begins("id", one.id)
                and filters.begins("name", one.name)
                and filters.any_of("driver", (one.driver,))
                and filters.any_of("scope", ("swarm",))
                and filters.any_of("type", (kind,))
                and filters.has_labels(one.labels)
            ):
                found.append(_document(one))
        return answer(found)

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /networks/{id}."""
        refuse_unknown(request, "scope", "verbose")
        return answer(_document(self.find(request.match_info["id"])))

    async def create(self, request: web.Request) -> web.Response:
        """POST /networks/create."""
        given = await body_of(request)
        spec = read_network(given)
        if spec.name in STANDING:
            raise ConflictError(f"network with name {spec.name} already exists")
        cluster = self._cluster
        key = cluster.keys.object("networks", spec.id)
        await cluster.documents.create("network", spec.name, key, spec, {})
        await cluster.shows(lambda: spec.id in cluster.view.networks)
        return answer({"Id": spec.id, "Warning": ""}, 201)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /networks/{id}."""
        cluster, network = self._cluster, self.find(request.match_info["id"])
        if network.id in STANDING:
            raise ConflictError(f"{network.name} is a pre-defined network and cannot be removed")
        for service in cluster.view.services.values():
            spec = service.spec
            if any(
                one.target in (network.id, network.name)
                for one in (*spec.networks, *spec.task_template.networks)
            ):
                raise ConflictError(f"network {network.name} is in use by service {service.name}")
        key = cluster.keys.object("networks", network.id)
        await cluster.documents.remove("network", network.name, key)
        await cluster.shows(lambda: network.id not in cluster.view.networks)
        return web.Response(status=204)


def read_network(given: dict[str, Any]) -> Network:
    """A network that a client asks for. Raises SpecError. Pure but for its id and time."""
    for name, value in given.items():
        said = value not in (None, False, "", [], {})
        if name == "IPAM" and isinstance(value, dict):
            said = bool(value.get("Config")) or value.get("Driver") not in (None, "", "default")
        if said and name not in KNOWN:
            raise SpecError(
                f"network option {name} is not supported: every network is the one flat network, "
                "whose addresses and encryption are in the network's own config"
            )
    driver, options = str(given.get("Driver") or ""), given.get("Options") or {}
    if driver not in DRIVERS:
        raise SpecError(f"network driver {driver!r} is not supported: leave it out")
    if not isinstance(options, dict):
        raise SpecError("Options: not an object")
    if options:
        raise SpecError(f"network option {next(iter(options))} is not supported: leave it out")
    name = str(given.get("Name") or "")
    require_name(name, "network")
    labels = given.get("Labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(one, str) for one in labels.values()):
        raise SpecError("Labels: not an object of texts")
    return Network(
        id=new_id(),
        name=name,
        driver=driver or "overlay",
        labels=labels,
        attachable=True,
        created=timestamp(),
    )


def _document(network: Network) -> dict[str, Any]:
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created or "0001-01-01T00:00:00Z",
        "Scope": "swarm",
        "Driver": network.driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    }
