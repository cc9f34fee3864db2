# SPDX-License-Identifier: Apache-2.0
"""Requests of other frameworks are answered, and what they were granted is counted as taken."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.errors import SpecError
from scheduler.manager.writer import Write
from scheduler.placement.demand import Demand
from scheduler.placement.node_table import NodeTable
from scheduler.placement.offers import answer, parse_request
from scheduler.store.codec import dumps
from scheduler.store.view import ClusterView


@dataclass(slots=True)
class Grants:
    """Follows the view; `accounted` can be made anew from it."""

    view: ClusterView
    table: NodeTable
    accounted: dict[str, list[tuple[str, Demand]]] = field(default_factory=dict)
    """Nodes that were taken, by `<framework>/<id>`."""

    def changed(self, kind: str, rest: str) -> None:
        """A key was applied to the view."""
        if kind in ("grants", "offers"):
            self._account(rest)
        elif kind == "nodes" and rest in self.table.nodes:
            for name, grant in self.view.grants.items():
                if rest in grant.get("Nodes", ()):
                    self._account(name)

    def _account(self, name: str) -> None:
        for node_id, demand in self.accounted.pop(name, ()):
            node = self.table.nodes.get(node_id)
            if node is not None:
                self.table.give_back(node, demand)
        grant, request = self.view.grants.get(name), self.view.offers.get(name)
        if grant is None or request is None:
            return
        try:
            demand = parse_request(name, request).demand
        except SpecError:
            return
        taken = []
        for node_id in grant.get("Nodes", ()):
            node = self.table.nodes.get(node_id)
            if node is not None:
                self.table.take(node, demand)
                taken.append((node_id, demand))
        self.accounted[name] = taken

    def writes(self, *, room_changed: bool) -> list[Write]:
        """The next answer, one at a time, as each takes of what the next one may have."""
        keys = self.view.keys
        for name in self.view.grants:
            if name not in self.view.offers:
                return [Write(delete=(keys.grant(name),))]
        for name, request in self.view.offers.items():
            before = self.view.grants.get(name)
            if before is not None and not (room_changed and "Reason" in before):
                continue
            grant = answer(self.table, name, request)
            if grant != before:
                offer = keys.offer(name)
                return [
                    Write({keys.grant(name): dumps(grant)}, (), {offer: self.view.version(offer)})
                ]
        return []
