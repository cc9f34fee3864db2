# SPDX-License-Identifier: Apache-2.0
"""All nodes, what is taken of each, and a heap of them for each filter that demands have.

A heap holds (load, index) of each node that its filter allows. An entry whose load is not the
node's any more is skipped when it is met, as each change of load pushes a new entry. So a task is
placed in the time that the heap takes, not in the time that looking at all nodes takes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from scheduler.placement.demand import Demand, NodeFilter
from scheduler.placement.filters import refused_for_what_it_is
from scheduler.placement.node_state import NodeState

MAX_HEAPS = 64


@dataclass(slots=True)
class Eligible:
    """The nodes that one filter allows."""

    nodes: list[NodeState]
    members: set[int]
    """Their indexes."""
    heap: list[tuple[int, int]]
    refused: Counter[str]
    """Reason to number of the other nodes."""


@dataclass(slots=True)
class NodeTable:
    """Nodes by id; `take` and `give_back` keep account of tasks."""

    nodes: dict[str, NodeState] = field(default_factory=dict)
    by_index: dict[int, NodeState] = field(default_factory=dict)
    _heaps: dict[NodeFilter, Eligible] = field(default_factory=dict)
    _next: int = 0

    def put(self, node: NodeState) -> None:
        """Add a node, or replace what it is; what is taken of it stays."""
        old = self.nodes.get(node.id)
        if old is not None:
            node.index, node.load = old.index, old.load
            node.used_cpus, node.used_memory = old.used_cpus, old.used_memory
            node.ports, node.services = old.ports, old.services
        else:
            node.index = self._next
            self._next += 1
        self.nodes[node.id] = self.by_index[node.index] = node
        self._heaps.clear()

    def remove(self, node_id: str) -> None:
        """Forget a node."""
        node = self.nodes.pop(node_id, None)
        if node is not None:
            del self.by_index[node.index]
            self._heaps.clear()

    def take(self, node: NodeState, demand: Demand) -> None:
        """Account for one more task."""
        node.used_cpus += demand.cpus
        node.used_memory += demand.memory
        node.load += 1
        node.services[demand.service] += 1
        for port in demand.ports:
            node.ports.add((port.protocol, port.published))
        self._moved(node)

    def give_back(self, node: NodeState, demand: Demand) -> None:
        """Account for a task that ended."""
        node.used_cpus -= demand.cpus
        node.used_memory -= demand.memory
        node.load -= 1
        node.services[demand.service] -= 1
        if not node.services[demand.service]:
            del node.services[demand.service]
        for port in demand.ports:
            node.ports.discard((port.protocol, port.published))
        self._moved(node)

    def _moved(self, node: NodeState) -> None:
        for eligible in self._heaps.values():
            if node.index in eligible.members:
                heapq.heappush(eligible.heap, (node.load, node.index))
                if len(eligible.heap) > 4 * len(eligible.nodes) + 1000:
                    eligible.heap = _heap(eligible.nodes)

    def eligible(self, wanted: NodeFilter) -> Eligible:
        """The nodes that a filter allows, and a heap of them."""
        found = self._heaps.get(wanted)
        if found is None:
            if len(self._heaps) >= MAX_HEAPS:
                self._heaps.clear()
            nodes, refused = [], Counter[str]()
            for node in self.nodes.values():
                reason = refused_for_what_it_is(node, wanted)
                if reason is None:
                    nodes.append(node)
                else:
                    refused[reason] += 1
            found = Eligible(nodes, {node.index for node in nodes}, _heap(nodes), refused)
            self._heaps[wanted] = found
        return found


def _heap(nodes: list[NodeState]) -> list[tuple[int, int]]:
    entries = [(node.load, node.index) for node in nodes]
    heapq.heapify(entries)
    return entries
