# SPDX-License-Identifier: Apache-2.0
"""One place of a service (a slot, or a node of a global service): which tasks it is to have. Pure.

A place has one task that is wanted to run. A second one is there while it is replaced: the newest
one stays as soon as it serves, and the others are stopped then. So an update with start-first, a
node that is drained, and rebalancing are the same here: one more task is created.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from scheduler.manager.changes import Create, Forget, Plan, Stop
from scheduler.manager.seen import Seen
from scheduler.model.service import SECOND, RestartPolicy, Service
from scheduler.model.task import Task, TaskState, TaskStatus

HISTORY = 5  # tasks that ended are kept for `docker service ps`, in each place
LONGEST_BACKOFF = 300.0  # seconds, or the policy's own delay
STEADY = 30.0  # seconds; a task that ran so long begins to count its failures anew
NO_ROOM = 5.0  # seconds; a drained node is left then even if there is no other
GONE, DOWN, LEAVE, READY = "gone", "down", "leave", "ready"
"""Of a task's node: removed; silent; its tasks must go elsewhere; well."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a service's places are planned with."""

    service: Service
    statuses: Mapping[str, TaskStatus]
    node: Callable[[Task], str]
    """GONE, DOWN, LEAVE or READY."""
    seen: Seen
    now: float
    """Monotonic."""
    drain: float = 0.0
    """Seconds from draining to the stop; 0: the tasks have no endpoints."""
    history: int = HISTORY

    def state(self, task: Task) -> TaskState:
        """What is known of a task."""
        status = self.statuses.get(task.id)
        if status is not None and task.node:
            return status.state
        return TaskState.ASSIGNED if task.node else TaskState.PENDING

    def serves(self, task: Task) -> bool:
        """Whether it runs, and is healthy."""
        status = self.statuses.get(task.id)
        return status is not None and bool(task.node) and status.serves


@dataclass(slots=True)
class Sorted:
    """The tasks of one place, newest first."""

    live: list[Task] = field(default_factory=list)
    leaving: list[Task] = field(default_factory=list)
    lost: list[Task] = field(default_factory=list)
    """Wanted, and on a node that is silent."""
    ended: list[Task] = field(default_factory=list)


def sort_tasks(tasks: Collection[Task], context: Context) -> Sorted:
    """Put each where it belongs."""
    found = Sorted()
    for task in sorted(tasks, key=lambda one: (one.created, one.id), reverse=True):
        node = context.node(task) if task.node else READY
        if context.state(task).ended or node == GONE:
            found.ended.append(task)
        elif task.desired is not TaskState.RUNNING or task.draining:
            found.leaving.append(task)
        elif node == DOWN:
            found.lost.append(task)
        else:
            found.live.append(task)
    return found


def plan_place(
    tasks: Collection[Task], context: Context, *, slot: int, node: str = "", wanted: bool = True
) -> Plan:
    """Plan one place; `node` is given for a global service's."""
    plan, found = Plan(), sort_tasks(tasks, context)
    _go_on_stopping(found.leaving, context, plan)
    if not wanted:
        _empty(found, plan)
        return plan
    if not node:
        for task in found.lost:  # a global service's task has nowhere else to go: it stays
            plan.changes.append(Stop(task, "its node is down", at_once=True))
    if len(found.live) > 1:
        _keep_one(found.live, context, plan)
    elif found.live:
        task = found.live[0]
        if context.node(task) == LEAVE and task.node:
            if node:
                plan.changes.append(Stop(task, "its node is drained"))
            else:
                plan.changes.append(Create(slot))
    elif not (node and found.lost):
        _fill(found, context, plan, slot, node)
    for task in _old(found.ended, context):
        plan.changes.append(Forget(task))
    return plan


def _go_on_stopping(leaving: list[Task], context: Context, plan: Plan) -> None:
    """Stop what has been draining long enough."""
    for task in leaving:
        if task.desired is not TaskState.RUNNING:
            continue
        until = context.seen.draining.get(task.id, context.now) + context.drain
        if until <= context.now or not context.serves(task):
            plan.changes.append(Stop(task, task.reason, at_once=True))
        else:
            plan.wake_at(until)


def _empty(found: Sorted, plan: Plan) -> None:
    """Nothing is to run here any more."""
    for task in (*found.live, *found.lost):
        plan.changes.append(Stop(task, "no longer wanted", TaskState.REMOVE))
    for task in found.leaving:
        if task.desired is TaskState.SHUTDOWN:  # its record shall go, too
            plan.changes.append(Stop(task, task.reason, TaskState.REMOVE, at_once=True))
    plan.changes += [Forget(task) for task in found.ended]


def _keep_one(live: list[Task], context: Context, plan: Plan) -> None:
    newest, others = live[0], live[1:]
    if context.serves(newest):
        plan.changes += [Stop(task, "replaced") for task in others]
        return
    leaving = [task for task in others if task.node and context.node(task) == LEAVE]
    if not newest.node and leaving:
        since = context.seen.pending.get(newest.id, context.now)
        if context.now >= since + NO_ROOM:
            plan.changes += [Stop(task, "its node is drained") for task in leaving]
        else:
            plan.wake_at(since + NO_ROOM)
    kept = next((task for task in others if context.serves(task)), others[0])
    surplus = [task for task in others if task is not kept and task not in leaving]
    plan.changes += [Stop(task, "replaced") for task in surplus]


def _fill(found: Sorted, context: Context, plan: Plan, slot: int, node: str) -> None:
    """Create a task, now or after the restart policy's delay."""
    service = context.service
    if any(context.node(task) == READY for task in found.leaving):
        return  # stop-first: it has not ended yet
    current = [task for task in found.ended if task.spec_version == service.spec_version]
    if service.is_job and any(context.state(task) is TaskState.COMPLETE for task in current):
        return
    last = found.ended[0] if found.ended else None
    if (
        last is None
        or found.lost
        or last.spec_version != service.spec_version
        or last.desired is not TaskState.RUNNING
        or context.node(last) == GONE
    ):
        plan.changes.append(Create(slot, node))
        return
    policy = service.spec.task_template.restart_policy
    failed = context.state(last) is not TaskState.COMPLETE
    if policy.condition == "none" or (
        not failed and (policy.condition == "on-failure" or service.is_job)
    ):
        return
    ended = context.seen.ended.get(last.id, context.now)
    attempt = next_attempt(last, context)
    if policy.max_attempts and attempt > policy.max_attempts:
        return
    due = ended + backoff(policy, attempt)
    if due <= context.now:
        plan.changes.append(Create(slot, node, attempt))
    else:
        plan.wake_at(due)


def next_attempt(last: Task, context: Context) -> int:
    """How many tasks of the place ended in a row, with this one."""
    window = context.service.spec.task_template.restart_policy.window / SECOND
    served = context.seen.serving.get(last.id)
    ended = context.seen.ended.get(last.id, context.now)
    steady = served is not None and ended - served >= (window or STEADY)
    return 1 if steady else last.attempt + 1


def backoff(policy: RestartPolicy, attempt: int) -> float:
    """Seconds before the next try: the policy's delay, twice as long after each failure."""
    delay = policy.delay / SECOND
    return float(min(delay * 2 ** min(attempt - 1, 30), max(LONGEST_BACKOFF, delay)))


def _old(ended: list[Task], context: Context) -> list[Task]:
    """What is forgotten: beyond the history, of nodes that are gone, or wanted to be removed."""
    kept = [
        task
        for task in ended
        if task.desired is not TaskState.REMOVE and context.node(task) != GONE
    ][: context.history]
    keep = {task.id for task in kept}
    return [task for task in ended if task.id not in keep]
