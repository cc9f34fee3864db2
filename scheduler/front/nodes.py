# SPDX-License-Identifier: Apache-2.0
"""Nodes: ls, inspect, update (labels, role, availability), rm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from etcd.client import Transaction
from scheduler.errors import ConflictError, OutOfDateError
from scheduler.front.answers import Route, answer, body_of, flag, number, refuse_unknown
from scheduler.front.cluster import Cluster, find
from scheduler.front.filters import Filters
from scheduler.model.base import parse
from scheduler.model.node import NodeRecord, NodeSpec
from scheduler.store import codec
from scheduler.store.documents import timestamp
from scheduler.store.view import ClusterView


class Nodes:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/nodes", self.list
        yield "GET", "/nodes/{id}", self.inspect
        yield "POST", "/nodes/{id}/update", self.update
        yield "DELETE", "/nodes/{id}", self.remove

    def _find(self, request: web.Request) -> NodeRecord:
        view, given = self._cluster.view, request.match_info["id"]
        given = self._cluster.node_id if given == "self" else given
        return view.nodes[find(view.nodes, given, "node", node_names(view))]

    async def list(self, request: web.Request) -> web.Response:
        """GET /nodes."""
        filters = Filters.of(
            request.query.get("filters", ""),
            *("id", "name", "label", "node.label", "engine.label", "role", "membership"),
        )
        view = self._cluster.view
        found = []
        for node in view.nodes.values():
            report = view.reports.get(node.id)
            engine = report.description.engine.labels if report is not None else {}
            if (
                filters.begins("id", node.id)
                and filters.begins("name", hostname(node, view))
                and filters.has_labels(labels_of(node, view), "node.label")
                and filters.has_labels({**engine, **labels_of(node, view)})
                and filters.has_labels(engine, "engine.label")
                and filters.any_of("role", (node.spec.role,))
                and filters.any_of("membership", ("accepted",))
            ):
                found.append(node_document(node, view))
        return answer(found)

    async def inspect(self, request: web.Request) -> web.Response:
        """GET /nodes/{id}."""
        return answer(node_document(self._find(request), self._cluster.view))

    async def update(self, request: web.Request) -> web.Response:
        """POST /nodes/{id}/update?version=N: the whole spec."""
        refuse_unknown(request, "version")
        cluster, node = self._cluster, self._find(request)
        spec = parse(NodeSpec, await body_of(request))
        if not spec.name:
            spec = spec.changed(name=node.spec.name)
        demoted = node.spec.role == "manager" and spec.role == "worker"
        others = [
            one.id
            for one in cluster.view.nodes.values()
            if one.id != node.id and one.spec.role == "manager"
        ]
        if demoted and not others:
            raise ConflictError(f"node {node.spec.name} is the last manager: promote another first")
        key, version = cluster.keys.node(node.id), number(request, "version")
        changed = node.changed(spec=spec, updated_at=timestamp())
        await cluster.documents.replace(key, changed, version)
        await cluster.shows_newer(key, version)
        return web.Response(status=200)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /nodes/{id}: only of a node that is down; its tasks go to others."""
        refuse_unknown(request, "force")
        cluster, node = self._cluster, self._find(request)
        if node.id in cluster.view.reports and not flag(request, "force"):
            raise ConflictError(
                f"node {node.spec.name or node.id} is not down and can't be removed: stop its "
                "worker first"
            )
        if node.id in cluster.view.managers:
            raise ConflictError(
                f"node {node.spec.name or node.id} is a manager that runs: stop it first"
            )
        key = cluster.keys.node(node.id)
        transaction = Transaction(unchanged={key: cluster.view.version(key)}, delete=[key])
        if await cluster.etcd.commit(transaction) is None:
            raise OutOfDateError(f"node {node.id}: it was changed just now: try again")
        await cluster.shows(lambda: node.id not in cluster.view.nodes)
        return web.Response(status=200)


def hostname(node: NodeRecord, view: ClusterView) -> str:
    """A node's name, as its worker or its record has it."""
    report = view.reports.get(node.id)
    return (report.description.hostname if report is not None else "") or node.spec.name


def node_names(view: ClusterView) -> dict[str, str]:
    """Host names to ids, of names that are not used twice."""
    found: dict[str, list[str]] = {}
    for node in view.nodes.values():
        for name in {hostname(node, view), node.spec.name}:
            found.setdefault(name, []).append(node.id)
    return {name: ids[0] for name, ids in found.items() if len(ids) == 1 and name}


def labels_of(node: NodeRecord, view: ClusterView) -> dict[str, str]:
    """The labels it was started with, and those that users gave it, which win."""
    report = view.reports.get(node.id)
    return {**(report.labels if report is not None else {}), **node.spec.labels}


def node_document(node: NodeRecord, view: ClusterView) -> dict[str, Any]:
    """A node with Docker's field names."""
    report = view.reports.get(node.id)
    spec = node.spec
    description: dict[str, Any] = {"Hostname": hostname(node, view), "Engine": {}}
    if report is not None:
        about = report.description
        description = codec.loads(codec.dumps(about.model_dump(by_alias=True, mode="json")))
    document: dict[str, Any] = {
        "ID": node.id,
        "Version": {"Index": view.version(view.keys.node(node.id))},
        "CreatedAt": node.created_at or "0001-01-01T00:00:00Z",
        "UpdatedAt": node.updated_at or "0001-01-01T00:00:00Z",
        "Spec": {
            "Name": spec.name,
            "Labels": dict(spec.labels),
            "Role": spec.role,
            "Availability": spec.availability,
        },
        "Description": description,
        "Status": {
            "State": "ready" if report is not None else "down",
            "Message": "" if report is not None else "its worker is silent",
            "Addr": report.addr if report is not None else "",
        },
    }
    if node.id in view.managers:
        document["ManagerStatus"] = {
            "Leader": view.leader == node.id,
            "Reachability": "reachable",
            "Addr": view.managers[node.id],
        }
    elif spec.role == "manager":
        document["ManagerStatus"] = {"Leader": False, "Reachability": "unreachable", "Addr": ""}
    return document
