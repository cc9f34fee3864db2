# SPDX-License-Identifier: Apache-2.0
"""A task as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from scheduler.front.answers import when
from scheduler.model.task import HostPort, Task, TaskState, TaskStatus
from scheduler.store.view import ClusterView


def state_of(task: Task, view: ClusterView) -> TaskState:
    """A task's state as it is known; of a node that is silent: orphaned once it is replaced."""
    status = view.statuses.get(task.id)
    if status is None:
        return TaskState.ASSIGNED if task.node else TaskState.PENDING
    silent = task.node not in view.reports
    if silent and not status.state.ended and task.desired is not TaskState.RUNNING:
        return TaskState.ORPHANED
    return status.state


def task_document(task: Task, view: ClusterView) -> dict[str, Any]:
    """A task with Docker's field names."""
    status = view.statuses.get(task.id)
    spec = view.spec_of(task)
    key = view.keys.task(task.node, task.id) if task.node else view.keys.pending(task.id)
    created = when(task.created)
    document: dict[str, Any] = {
        "ID": task.id,
        "Version": {"Index": max(view.version(key), status.version if status else 0)},
        "CreatedAt": created,
        "UpdatedAt": when(status.timestamp) if status else created,
        "Labels": {},
        "Spec": spec.document() if spec is not None else {},
        "ServiceID": task.service,
        "NodeID": task.node,
        "Status": _status(task, status, view),
        "DesiredState": task.desired.docker,
    }
    if task.slot:
        document["Slot"] = task.slot
    if task.name:
        document["Name"] = task.name
    if status is not None and status.addresses:
        document["NetworksAttachments"] = [
            {
                "Network": {"ID": "flatmesh", "Spec": {"Name": "flatmesh"}},
                "Addresses": list(status.addresses),
            }
        ]
    return document


def _status(task: Task, status: TaskStatus | None, view: ClusterView) -> dict[str, Any]:
    state = state_of(task, view)
    found: dict[str, Any] = {
        "Timestamp": when(status.timestamp if status else task.created),
        "State": state.docker,
        "Message": status.message if status else "",
        "PortStatus": {},
    }
    if status is None:
        if not task.node:
            found["Err"] = task.reason
        return found
    if status.err:
        found["Err"] = status.err
    elif task.node not in view.reports and not state.ended:
        found["Err"] = "the node is silent"
    container: dict[str, Any] = {"ContainerID": status.container or task.id, "PID": status.pid}
    if status.exit_code is not None:
        container["ExitCode"] = status.exit_code
    found["ContainerStatus"] = container
    if status.ports:
        found["PortStatus"] = {"Ports": [_port(one) for one in status.ports]}
    return found


def _port(port: HostPort) -> dict[str, Any]:
    return {
        "Protocol": port.protocol,
        "TargetPort": port.target,
        "PublishedPort": port.published,
        "PublishMode": "host",
    }
