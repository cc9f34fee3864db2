# SPDX-License-Identifier: Apache-2.0
"""Choose nodes for a group of tasks that need the same.

Order of choice: nodes on which the template has not failed; then the nodes with the fewest tasks of
the service; then the nodes with the fewest tasks. With spread preferences, first the value of each
label that has the fewest tasks of the service; with binpack, the fullest node that has room.

A small group looks only at the top of the heap of its filter. A large one, or one with preferences,
makes a heap of its own.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from scheduler.placement.constraints import value_of
from scheduler.placement.demand import Demand
from scheduler.placement.filters import explained, refused_for_its_tasks
from scheduler.placement.node_state import NodeState
from scheduler.placement.node_table import Eligible, NodeTable

LOOKED_AT = 64  # entries of the shared heap, beside those that a group must pass over


@dataclass(slots=True)
class Placed:
    """What came of placing a group."""

    nodes: list[NodeState] = field(default_factory=list)
    """One for each task that got one, in order."""
    reason: str = ""
    """Why the rest got none."""


def place(table: NodeTable, demand: Demand, number: int) -> Placed:
    """Take nodes for `number` tasks; the table keeps account of them."""
    eligible = table.eligible(demand.filter)
    placed = Placed()
    if not (demand.preferences or demand.binpack) and number * 4 < len(eligible.nodes):
        _place_few(table, eligible, demand, number, placed)
    if len(placed.nodes) < number:
        counts = Counter(eligible.refused)
        candidates = []
        for node in eligible.nodes:
            reason = refused_for_its_tasks(node, demand)
            if reason is None:
                candidates.append(node)
            else:
                counts[reason] += 1
        _place_many(table, candidates, demand, number, placed, counts)
        if len(placed.nodes) < number:
            placed.reason = explained(counts)
    return placed


def _place_few(
    table: NodeTable, eligible: Eligible, demand: Demand, number: int, placed: Placed
) -> None:
    """Take the least loaded nodes without a task of the service, as far as they are at the top."""
    aside: list[tuple[int, int]] = []
    heap, looked_at = eligible.heap, 0
    while heap and len(placed.nodes) < number and looked_at < LOOKED_AT + 4 * number:
        entry = heapq.heappop(heap)
        node = table.by_index[entry[1]]
        if entry[0] != node.load:
            continue  # there is a newer entry
        looked_at += 1
        if (
            node.services.get(demand.service)
            or node.id in demand.failures
            or refused_for_its_tasks(node, demand) is not None
        ):
            aside.append(entry)
            continue
        placed.nodes.append(node)
        table.take(node, demand)
        heap = eligible.heap
    for entry in aside:
        heapq.heappush(eligible.heap, entry)


def _place_many(
    table: NodeTable,
    candidates: list[NodeState],
    demand: Demand,
    number: int,
    placed: Placed,
    counts: Counter[str],
) -> None:
    buckets: dict[tuple[str, ...], list[tuple[tuple[float, ...], NodeState]]] = defaultdict(list)
    for node in candidates:
        path = tuple(value_of(node, field) or "" for field in demand.preferences)
        buckets[path].append((_rank(node, demand), node))
    for entries in buckets.values():
        heapq.heapify(entries)
    spread = _spread_counts(table, demand)
    while buckets and len(placed.nodes) < number:
        path = min(buckets, key=lambda one: _counts_along(spread, one)) if spread else ()
        entries = buckets[path]
        _, node = heapq.heappop(entries)
        placed.nodes.append(node)
        table.take(node, demand)
        for depth in range(1, len(path) + 1):
            spread[path[:depth]] += 1
        reason = refused_for_its_tasks(node, demand)
        if reason is None:
            heapq.heappush(entries, (_rank(node, demand), node))
        else:
            counts[reason] += 1
            if not entries:
                del buckets[path]


def _rank(node: NodeState, demand: Demand) -> tuple[float, ...]:
    failures = demand.failures.get(node.id, 0)
    if demand.binpack:
        cpus = node.used_cpus / node.cpus if node.cpus else 0.0
        memory = node.used_memory / node.memory if node.memory else 0.0
        return (failures, -max(cpus, memory), -node.load, node.index)
    return (failures, node.services.get(demand.service, 0), node.load, node.index)


def _spread_counts(table: NodeTable, demand: Demand) -> Counter[tuple[str, ...]]:
    """How many tasks of the service each value of the labels has, by path of values."""
    counts = Counter[tuple[str, ...]]()
    if not demand.preferences:
        return counts
    for node in table.nodes.values():
        path = tuple(value_of(node, field) or "" for field in demand.preferences)
        tasks = node.services.get(demand.service, 0)
        for depth in range(1, len(path) + 1):
            counts[path[:depth]] += tasks
    return counts


def _counts_along(counts: Counter[tuple[str, ...]], path: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(counts[path[:depth]] for depth in range(1, len(path) + 1))
