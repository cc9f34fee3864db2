# SPDX-License-Identifier: Apache-2.0
"""Moving running tasks to nodes that have fewer, one at a time. Pure.

A service asks for it with the label flatmesh.rebalance=true; `--rebalance` does for all services. A
move is a second task in the place (`manager.slots`): the old one stops when the new one serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from scheduler.manager.changes import Create, Plan
from scheduler.manager.scale import Places
from scheduler.manager.slots import Context, sort_tasks
from scheduler.manager.update import ACTIVE
from scheduler.model.service import Service

LABEL = "flatmesh.rebalance"


def wants_rebalance(service: Service, *, default: bool) -> bool:
    """Whether a service's tasks may be moved."""
    if service.replicas is None or service.is_job:
        return False
    return service.spec.labels.get(LABEL, "true" if default else "false") == "true"


def plan_rebalance(places: Places, context: Context, nodes: Iterable[str]) -> Plan:
    """Move one task where that makes the spread over `nodes` (that have room) more even."""
    plan = Plan()
    status = context.service.update_status
    if status is not None and status.state in ACTIVE:
        return plan
    counts = Counter[str]()
    movable: dict[str, int] = {}
    for tasks in places.values():
        found = sort_tasks(tasks, context)
        if not _is_quiet(tasks, len(found.live), len(found.leaving)):
            return plan
        for task in found.live:
            if not context.serves(task):
                return plan
            counts[task.node] += 1
            movable[task.node] = task.slot
    free = set(nodes)
    if not free or not counts:
        return plan
    fullest = max(counts, key=lambda node: (counts[node], node))
    if counts[fullest] - min(counts[node] for node in free) > 1:
        plan.changes.append(Create(movable[fullest]))
    return plan


def _is_quiet(tasks: Collection[object], live: int, leaving: int) -> bool:
    """Whether nothing of a place is being replaced or missing."""
    return live == 1 and not leaving if tasks else True
