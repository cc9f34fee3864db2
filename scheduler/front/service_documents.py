# SPDX-License-Identifier: Apache-2.0
"""A service as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from scheduler.front.task_documents import state_of
from scheduler.model.service import Service
from scheduler.model.task import TaskState
from scheduler.store.view import ClusterView


def mode_name(service: Service) -> str:
    """As the filter `mode` has it."""
    mode = service.spec.mode
    if mode.global_ is not None:
        return "global"
    if mode.replicated_job is not None:
        return "replicated-job"
    return "global-job" if mode.global_job is not None else "replicated"


def service_document(
    service: Service, view: ClusterView, *, status: bool = False, whole: bool = False
) -> dict[str, Any]:
    """A service with Docker's field names; `whole`: with the defaults of what is not set."""
    spec = service.spec
    shown = (
        spec.model_dump(by_alias=True, exclude_none=True, mode="json") if whole else spec.document()
    )
    shown.setdefault("Labels", {})
    shown.setdefault("TaskTemplate", {}).setdefault("ContainerSpec", {})
    endpoint = spec.endpoint_spec.document()
    document: dict[str, Any] = {
        "ID": service.id,
        "Version": {"Index": view.version(view.keys.service(service.id))},
        "CreatedAt": service.created_at,
        "UpdatedAt": service.updated_at,
        "Spec": shown,
        "Endpoint": {"Spec": endpoint, "Ports": endpoint.get("Ports", [])},
    }
    if service.previous_spec is not None:
        document["PreviousSpec"] = service.previous_spec.document()
    if service.update_status is not None:
        told = service.update_status.document()
        document["UpdateStatus"] = {key: value for key, value in told.items() if value}
    if service.is_job:
        document["JobStatus"] = {"JobIteration": {"Index": 0}}
    if status:
        document["ServiceStatus"] = _counts(service, view)
    return document


def _counts(service: Service, view: ClusterView) -> dict[str, int]:
    tasks = view.tasks_of(service.id).values()
    states = [(task, state_of(task, view)) for task in tasks]
    wanted = service.replicas
    if wanted is None:
        wanted = len({task.node for task in tasks if task.desired is TaskState.RUNNING})
    return {
        "RunningTasks": sum(
            state is TaskState.RUNNING
            and task.desired is TaskState.RUNNING
            and task.node in view.reports
            for task, state in states
        ),
        "DesiredTasks": wanted,
        "CompletedTasks": sum(state is TaskState.COMPLETE for _, state in states),
    }
