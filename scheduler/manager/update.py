# SPDX-License-Identifier: Apache-2.0
"""A rolling update, or a rollback: which places get the new template now. Pure.

The state is the tasks themselves: a place is outdated, busy or done. So a new leader goes on where
the last one was. A place is busy from the moment that its task is replaced until the new one has
served for the configured delay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from scheduler.manager.changes import Create, Plan, Rewrite, Stop
from scheduler.manager.slots import Context, Sorted, sort_tasks
from scheduler.model.service import SECOND, Service, UpdateConfig, UpdateState, UpdateStatus
from scheduler.model.task import Task, TaskState

ACTIVE = ("updating", "rollback_started")


def config_of(service: Service) -> UpdateConfig:
    """How the update that is going on is to be done."""
    state = service.update_status.state if service.update_status else ""
    return (
        service.spec.rollback_config
        if state.startswith("rollback")
        else (service.spec.update_config)
    )


def plan_update(places: Mapping[str, Collection[Task]], context: Context, at: str) -> Plan:
    """Plan the next step; `at` is the time for people (RFC 3339)."""
    service, plan = context.service, Plan()
    status = service.update_status
    if status is None or status.state not in ACTIVE:
        return plan
    config = config_of(service)
    found = {place: sort_tasks(tasks, context) for place, tasks in places.items()}
    wanted = {slot: one for slot, one in found.items() if _is_wanted(one)}
    if _failed_too_often(wanted, context, config, plan, at):
        return plan
    outdated, busy, settled = [], 0, True
    for slot, one in wanted.items():
        current = [task for task in one.live if task.spec_version == service.spec_version]
        if not current and one.live:
            outdated.append(slot)
            continue
        since = context.seen.serving.get(current[0].id) if current else None
        if since is None or len(one.live) > 1:
            busy += 1
            continue
        if context.now < since + config.delay / SECOND:
            busy += 1
            plan.wake_at(since + config.delay / SECOND)
        if context.now < since + config.monitor / SECOND:
            settled = False
            plan.wake_at(since + config.monitor / SECOND)
    if not outdated and not busy and settled:
        state: UpdateState = "completed" if status.state == "updating" else "rollback_completed"
        word = "update" if status.state == "updating" else "rollback"
        plan.changes.append(_status(service, state, f"{word} completed", at))
        return plan
    room = len(outdated) if not config.parallelism else max(config.parallelism - busy, 0)
    for slot in sorted(outdated, key=lambda one: (_all_serve(wanted[one], context), len(one), one))[
        :room
    ]:
        live = wanted[slot].live
        if config.order == "start-first":
            plan.changes.append(Create(live[0].slot, "" if live[0].slot else live[0].node))
        else:
            plan.changes += [Stop(task, "updated") for task in live]
    return plan


def _is_wanted(one: Sorted) -> bool:
    return bool(one.live or one.lost) or any(
        task.desired is not TaskState.REMOVE for task in (*one.leaving, *one.ended)
    )


def _all_serve(one: Sorted, context: Context) -> bool:
    return all(context.serves(task) for task in one.live)


def _failed_too_often(
    wanted: Mapping[str, Sorted], context: Context, config: UpdateConfig, plan: Plan, at: str
) -> bool:
    """Whether so many places failed with the new template that the update ends."""
    service = context.service
    if config.failure_action == "continue":
        return False
    failed = sum(
        any(_failed(task, context, config) for task in one.ended) for one in wanted.values()
    )
    if failed <= config.max_failure_ratio * max(len(wanted), 1):
        return False
    said = f"{failed} of {len(wanted)} tasks failed with the new template"
    assert service.update_status is not None  # noqa: S101 - the caller looked
    updating = service.update_status.state == "updating"
    if updating and config.failure_action == "rollback" and service.previous_spec is not None:
        plan.changes.append(Rewrite(rolled_back(service, f"rolled back: {said}", at)))
    else:
        state: UpdateState = "paused" if updating else "rollback_paused"
        plan.changes.append(_status(service, state, f"paused: {said}", at))
    return True


def _failed(task: Task, context: Context, config: UpdateConfig) -> bool:
    if task.spec_version != context.service.spec_version or task.desired is not TaskState.RUNNING:
        return False
    if context.state(task) not in (TaskState.FAILED, TaskState.REJECTED):
        return False
    served = context.seen.serving.get(task.id)
    ended = context.seen.ended.get(task.id, context.now)
    return served is None or ended - served < config.monitor / SECOND


def rolled_back(service: Service, message: str, at: str) -> Service:
    """The service with its previous spec; tasks that still have that one are up to date."""
    previous = service.previous_spec
    if previous is None:
        return service
    return service.changed(
        spec=previous,
        spec_version=service.previous_spec_version,
        previous_spec=service.spec,
        previous_spec_version=service.spec_version,
        update_status=UpdateStatus(state="rollback_started", started_at=at, message=message),
        updated_at=at,
    )


def _status(service: Service, state: UpdateState, message: str, at: str) -> Rewrite:
    before = service.update_status or UpdateStatus()
    completed = at if state.endswith("completed") else ""
    status = UpdateStatus(
        state=state, started_at=before.started_at, completed_at=completed, message=message
    )
    return Rewrite(service.changed(update_status=status))
