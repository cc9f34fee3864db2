# SPDX-License-Identifier: Apache-2.0
"""GET /events: what changes in the cluster, a JSON object a line, as this manager's view tells it.

Nothing of the past is kept: `since` is refused, `until` ends the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from scheduler.errors import SpecError
from scheduler.front.answers import Route, refuse_unknown
from scheduler.front.cluster import Cluster
from scheduler.front.filters import Filters
from scheduler.front.nodes import hostname
from scheduler.store.codec import dumps

KINDS = {
    "services": "service",
    "nodes": "node",
    "configs": "config",
    "secrets": "secret",
    "networks": "network",
}
MOST = 10_000  # events that a slow client may have waiting


class Events:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/events", self.stream

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /events?until=&filters=."""
        refuse_unknown(request, "since", "until", "filters")
        filters = Filters.of(
            request.query.get("filters", ""),
            *("type", "event", "service", "node", "network", "config", "secret", "scope"),
        )
        end = _end(request.query.get("until", ""))
        if request.query.get("since"):
            raise SpecError("--since is not supported: events of the past are not kept")
        waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST)
        known = {(kind, one) for kind in KINDS for one in self._table(kind)}
        names: dict[str, str] = {one: self._name(kind, one) for kind, one in known}

        def changed(kind: str, rest: str) -> None:
            if kind not in KINDS:
                return
            there, before = rest in self._table(kind), (kind, rest) in known
            if not (there or before):
                return
            action = "remove" if not there else "update" if before else "create"
            if there:
                known.add((kind, rest))
                names[rest] = self._name(kind, rest)
            else:
                known.discard((kind, rest))
            event = _event(KINDS[kind], action, rest, names.get(rest, ""))
            if _passes(event, filters):
                with contextlib.suppress(asyncio.QueueFull):
                    waiting.put_nowait(event)

        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._cluster.view.listeners.append(changed)
        try:
            await response.prepare(request)
            async with asyncio.timeout(None if end is None else max(end - time.time(), 0)):
                while True:
                    await response.write(dumps(await waiting.get()) + b"\n")
        except (TimeoutError, ConnectionError):
            pass  # `until`, or the client has gone
        finally:
            self._cluster.view.listeners.remove(changed)
        return response

    def _table(self, kind: str) -> dict[str, Any]:
        view = self._cluster.view
        tables: dict[str, dict[str, Any]] = {
            "services": view.services,
            "nodes": view.nodes,
            "configs": view.configs,
            "secrets": view.secrets,
            "networks": view.networks,
        }
        return tables[kind]

    def _name(self, kind: str, object_id: str) -> str:
        found = self._table(kind)[object_id]
        if kind == "nodes":
            return hostname(found, self._cluster.view)
        return str(found.name if kind in ("services", "networks") else found.spec.name)


def _event(kind: str, action: str, object_id: str, name: str) -> dict[str, Any]:
    now = time.time()
    return {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": object_id, "Attributes": {"name": name}},
        "scope": "swarm",
        "time": int(now),
        "timeNano": int(now * 1e9),
    }


def _passes(event: dict[str, Any], filters: Filters) -> bool:
    actor = event["Actor"]
    if not all(
        (
            filters.any_of("type", (event["Type"],)),
            filters.any_of("event", (event["Action"],)),
            filters.any_of("scope", ("swarm",)),
        )
    ):
        return False
    for kind in KINDS.values():
        if kind in filters.values:
            fits = (actor["ID"], actor["Attributes"]["name"])
            return event["Type"] == kind and filters.any_of(kind, fits)
    return True


def _end(text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"until={text!r} is no time in seconds since 1970") from None
