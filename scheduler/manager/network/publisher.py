# SPDX-License-Identifier: Apache-2.0
"""Keeps the network's services and endpoints as our services and tasks want them.

What is ours bears the id of our service (`documents.OWNER`); another's service with the same name
or published port stays, and the log says so. Writes are fenced by the leader key: it is in the same
etcd.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.manager.network.documents import (
    OWNER,
    claims_of,
    dumps,
    endpoint_value,
    has_endpoints,
    network_name,
    service_document,
)
from scheduler.manager.network.view import NetworkView
from scheduler.manager.slots import DOWN, GONE
from scheduler.manager.tracker import Tracker
from scheduler.manager.writer import Write
from scheduler.model.service import Service

log = logging.getLogger("scheduler.endpoints")


@dataclass(slots=True)
class Publisher:
    """Turns what changed into writes below the network's prefix."""

    view: NetworkView
    tracker: Tracker
    names: dict[str, str] = field(default_factory=dict)
    """Names of network services that are ours, by the ids of our services."""
    _warned: dict[str, str] = field(default_factory=dict)
    _started: bool = False
    _written: set[str] = field(default_factory=set)
    """Services that were written the last time: others may have been faster, so look again."""

    def writes(self) -> list[Write]:
        """What is to be written now; empty before everything was read."""
        if not self.view.complete:
            return []
        cluster = self.tracker.view
        if not self._started:
            self._started = True
            self.tracker.published_services.update(cluster.services)
            for name in self.view.services:
                owner = self.view.document(name).get(OWNER)
                if isinstance(owner, str):
                    self.names[owner] = name
                    self.tracker.published_services.add(owner)
        self.tracker.published_services |= self._written | self._warned.keys()
        self._written.clear()
        for name in self.view.changed_services:  # somebody else's change is mended
            owner = self.view.document(name).get(OWNER)
            if isinstance(owner, str):
                self.tracker.published_services.add(owner)
        self.view.changed_services.clear()
        found: list[Write] = []
        for service_id in self.tracker.published_services:
            service = cluster.services.get(service_id)
            if service is None or not has_endpoints(service):
                found += self._withdrawn(service_id)
            else:
                found += self._published(service)
                self.tracker.published_tasks.update(
                    (service_id, task) for task in cluster.tasks_of(service_id)
                )
                known = self.view.endpoints.get(self.names.get(service_id, ""), {})
                self.tracker.published_tasks.update((service_id, task) for task in known)
        self.tracker.published_services.clear()
        found += self._endpoints(self.tracker.published_tasks)
        self.tracker.published_tasks.clear()
        return found

    def _published(self, service: Service) -> list[Write]:
        name, prefix = network_name(service), self.view.prefix
        before = self.view.document(name)
        if name in self.view.services and before.get(OWNER) != service.id:
            owner = before.get(OWNER)
            if owner in self.tracker.view.services or owner is None:
                self._warn(service, f"the network has another service {name}: choose another name")
                return []
        document = service_document(service, self.view)
        claims = claims_of(document)
        for claim in claims:
            holder = self.view.claims.get(claim)
            if holder is not None and holder.value.decode(errors="replace") != name:
                other = holder.value.decode(errors="replace")
                if claim in claims_of(self.view.document(other)):
                    what = claim.replace("/", " ")
                    self._warn(service, f"{what} is service {other[:80]}'s: choose another")
                    return []
        self._warned.pop(service.id, None)
        self.names[service.id] = name
        value = dumps(document)
        key = f"{prefix}/services/{name}"
        known = self.view.services.get(name)
        old = claims_of(before) - claims
        if known is not None and known.value == value and not old:
            return []
        ours = {f"{prefix}/service-claims/{claim}": name.encode() for claim in claims}
        given_up = [f"{prefix}/service-claims/{claim}" for claim in old if self._is(claim, name)]
        self._written.add(service.id)
        compared = {one: self._revision(one) for one in (key, *ours, *given_up)}
        return [Write({key: value, **ours}, tuple(given_up), compared)]

    def _is(self, claim: str, name: str) -> bool:
        held = self.view.claims.get(claim)
        return held is not None and held.value == name.encode()

    def _revision(self, key: str) -> int:
        known = self.view.known(key)
        return known.mod_revision if known is not None else 0

    def _withdrawn(self, service_id: str) -> list[Write]:
        """The network's service goes, with claims and endpoints."""
        name = self.names.pop(service_id, None)
        self._warned.pop(service_id, None)
        if name is None or self.view.document(name).get(OWNER) != service_id:
            return []
        prefix = self.view.prefix
        key = f"{prefix}/services/{name}"
        claims = [one for one in claims_of(self.view.document(name)) if self._is(one, name)]
        gone = [key, *(f"{prefix}/service-claims/{claim}" for claim in claims)]
        endpoints = [
            Write(delete=(f"{prefix}/endpoints/{name}/{endpoint}",))
            for endpoint in self.view.endpoints.get(name, ())
        ]
        return [Write({}, tuple(gone), {key: self._revision(key)}), *endpoints]

    def _endpoints(self, tasks: Iterable[tuple[str, str]]) -> list[Write]:
        cluster, found = self.tracker.view, []
        for service_id, task_id in tasks:
            name = self.names.get(service_id)
            if name is None:
                continue
            task = cluster.tasks.get(task_id)
            value = None
            if task is not None and service_id in cluster.services:
                reachable = self.tracker.node_health(task) not in (DOWN, GONE)
                node = self.tracker.table.nodes.get(task.node)
                value = endpoint_value(
                    task,
                    cluster.statuses.get(task_id),
                    node.address if node is not None else "",
                    reachable=reachable,
                )
            key = f"{self.view.prefix}/endpoints/{name}/{task_id}"
            known = self.view.known(key)
            if value is None and known is not None:
                found.append(Write(delete=(key,)))
            elif value is not None and (known is None or known.value != value):
                found.append(Write({key: value}))
        return found

    def _warn(self, service: Service, text: str) -> None:
        if self._warned.get(service.id) != text:
            self._warned[service.id] = text
            log.warning("service %s is not published: %s", service.name, text)
