# SPDX-License-Identifier: Apache-2.0
"""Which places a service has: slots of a replicated one, nodes of a global one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from scheduler.manager.slots import Context, sort_tasks
from scheduler.model.task import Task, TaskState

Places = Mapping[str, Collection[Task]]
"""The tasks of each place: a slot's number, or a node's id."""


def wanted_slots(places: Places, context: Context, replicas: int) -> set[int]:
    """Choose the slots that a replicated service keeps or gets.

    When there are too many, those go first that don't run, then those on the nodes that have the
    most tasks of the service. New slots get the lowest free numbers.
    """
    used = [int(place) for place, tasks in places.items() if _in_use(tasks)]
    if len(used) > replicas:
        return _without_surplus(used, places, context, replicas)
    wanted = set(used)
    number = 1
    while len(wanted) < replicas:
        wanted.add(number)
        number += 1
    return wanted


def _in_use(tasks: Collection[Task]) -> bool:
    """Whether a slot is still wanted: one that was scaled away has only tasks to be removed."""
    return any(task.desired is not TaskState.REMOVE for task in tasks)


def _without_surplus(used: list[int], places: Places, context: Context, replicas: int) -> set[int]:
    live = {slot: next(iter(sort_tasks(places[str(slot)], context).live), None) for slot in used}
    on_node = Counter(task.node for task in live.values() if task is not None)

    def serving(slot: int) -> bool:
        task = live[slot]
        return task is not None and context.serves(task)

    wanted = set(used)
    for slot in sorted((slot for slot in used if not serving(slot)), reverse=True):
        if len(wanted) == replicas:
            return wanted
        wanted.remove(slot)
        task = live[slot]
        if task is not None:
            on_node[task.node] -= 1
    by_node: dict[str, list[int]] = {}
    for slot in sorted(wanted):
        task = live[slot]
        if task is not None:
            by_node.setdefault(task.node, []).append(slot)
    while len(wanted) > replicas:
        node = max(by_node, key=lambda one: (len(by_node[one]), one))
        wanted.remove(by_node[node].pop())
    return wanted


def concurrent_slots(
    places: Places, wanted: set[int], context: Context, concurrent: int
) -> set[int]:
    """Of a job's slots, those that may run now: `concurrent` that are not complete, the rest later.

    Slots that run or are complete are kept.
    """
    if not concurrent:
        return wanted
    kept, waiting = set(), []
    busy = 0
    for slot in sorted(wanted):
        found = sort_tasks(places.get(str(slot), ()), context)
        if any(context.state(task) is TaskState.COMPLETE for task in found.ended):
            kept.add(slot)
        elif found.live or found.leaving or found.ended:
            kept.add(slot)
            busy += 1
        else:
            waiting.append(slot)
    return kept | set(waiting[: max(concurrent - busy, 0)])
