# SPDX-License-Identifier: Apache-2.0
"""A service: which of its places are wanted, and what each is to have. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from scheduler.manager.changes import Plan
from scheduler.manager.rebalance import plan_rebalance, wants_rebalance
from scheduler.manager.scale import Places, concurrent_slots, wanted_slots
from scheduler.manager.slots import Context, plan_place
from scheduler.manager.update import ACTIVE, plan_update
from scheduler.model.task import Task, TaskState


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes as one service sees them."""

    keeps: Callable[[str], bool]
    """Whether a global service's task may stay on a node."""
    takes: Callable[[str], bool]
    """Whether a node can take one more task of the service."""
    every: Iterable[str]


def plan_service(
    places: Places,
    context: Context,
    nodes: Nodes,
    at: str,
    *,
    only: Collection[str] | None = None,
    growing: bool = False,
    rebalance: bool = False,
) -> Plan:
    """Plan a service; with `only`, the places in which something changed, and what follows.

    `growing`: a plan from before has tasks that are not made yet.
    """
    service, plan = context.service, Plan()
    if service.replicas is None:
        _plan_global(places, context, nodes, plan, only)
    else:
        resized = not growing and len(places) != service.replicas
        _plan_slots(places, context, plan, None if resized else only, service.replicas)
    updating = service.update_status is not None and service.update_status.state in ACTIVE
    if updating:
        plan.add(plan_update(places, context, at))
    elif wants_rebalance(service, default=rebalance) and not plan.changes:
        plan.add(plan_rebalance(places, context, filter(nodes.takes, nodes.every)))
    return plan


def plan_removed(places: Places, context: Context) -> Plan:
    """A service that is gone: its tasks go, too."""
    plan = Plan()
    for tasks in places.values():
        plan.add(plan_place(tasks, context, slot=0, wanted=False))
    return plan


def _plan_slots(
    places: Places, context: Context, plan: Plan, only: Collection[str] | None, replicas: int
) -> None:
    if only is None or context.service.is_job:
        wanted = wanted_slots(places, context, replicas)
        job = context.service.spec.mode.replicated_job
        if job is not None:
            wanted = concurrent_slots(places, wanted, context, job.max_concurrent)
        for slot in sorted(wanted | set(map(int, places))):
            tasks = places.get(str(slot), ())
            plan.add(plan_place(tasks, context, slot=slot, wanted=slot in wanted))
        return
    for place in only:
        if place in places:
            wanted_here = any(task.desired is not TaskState.REMOVE for task in places[place])
            plan.add(plan_place(places[place], context, slot=int(place), wanted=wanted_here))


def _plan_global(
    places: Places, context: Context, nodes: Nodes, plan: Plan, only: Collection[str] | None
) -> None:
    every = set(nodes.every)
    for node in (every | places.keys()) if only is None else only:
        tasks: Collection[Task] = places.get(node, ())
        wanted = node in every and nodes.keeps(node)
        if wanted and not tasks and not nodes.takes(node):
            continue
        found = plan_place(tasks, context, slot=0, node=node, wanted=wanted)
        plan.add(found)
