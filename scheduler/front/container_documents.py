# SPDX-License-Identifier: Apache-2.0
"""A container task as the API shows it. Pure."""

from __future__ import annotations

from typing import Any

from scheduler.front.answers import when
from scheduler.front.nodes import hostname
from scheduler.front.task_documents import state_of
from scheduler.model.service import TaskSpec
from scheduler.model.task import TaskState
from scheduler.store.view import ClusterView

ZERO = when(0)


def runs(container: str, view: ClusterView) -> bool:
    """Whether it was started and has not ended; it may wait for a node."""
    task = view.tasks.get(container)
    return task is not None and not state_of(task, view).ended


def status_of(container: str, view: ClusterView) -> str:
    """Docker's word for its state."""
    task = view.tasks.get(container)
    if task is None:
        return "created"
    state = state_of(task, view)
    if state.ended:
        return "exited"
    return "running" if state is TaskState.RUNNING else "created"


def listed(container: str, name: str, spec: TaskSpec, view: ClusterView) -> dict[str, Any]:
    """As GET /containers/json has it."""
    task, status = view.tasks.get(container), view.statuses.get(container)
    node = view.nodes.get(task.node) if task is not None else None
    word = status_of(container, view)
    shown = word.capitalize()
    if word == "exited" and status is not None:
        shown = f"Exited ({status.exit_code if status.exit_code is not None else 1})"
    elif word == "created" and task is not None:
        shown = task.reason or state_of(task, view).docker.capitalize()
    elif word == "running":
        shown = f"Up on {hostname(node, view) if node is not None else ''}"
    main = spec.container_spec
    return {
        "Id": container,
        "Names": [f"/{name}"],
        "Image": main.image,
        "ImageID": "",
        "Command": " ".join((*main.command, *main.args)),
        "Created": int(task.created if task is not None else 0),
        "Ports": [],
        "Labels": dict(main.labels),
        "State": word,
        "Status": shown,
        "HostConfig": {"NetworkMode": "flatmesh"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }


def inspected(container: str, name: str, spec: TaskSpec, view: ClusterView) -> dict[str, Any]:
    """As GET /containers/{id}/json has it."""
    task, status = view.tasks.get(container), view.statuses.get(container)
    main, word = spec.container_spec, status_of(container, view)
    node = view.nodes.get(task.node) if task is not None else None
    addresses = status.addresses if status is not None else ()
    ended = word == "exited" and status is not None
    address = addresses[0].partition("/")[0] if addresses else ""
    return {
        "Id": container,
        "Name": f"/{name}",
        "Created": when(task.created if task is not None else 0),
        "Path": next(iter((*main.command, *main.args)), ""),
        "Args": [*main.command, *main.args][1:],
        "State": {
            "Status": word,
            "Running": word == "running",
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": status.pid if status is not None and not ended else 0,
            "ExitCode": (status.exit_code or 0) if status is not None else 0,
            "Error": (status.err if status is not None else task.reason) if task else "",
            "StartedAt": when(task.created) if task is not None else ZERO,
            "FinishedAt": when(status.timestamp) if ended and status is not None else ZERO,
        },
        "Image": main.image,
        "Node": {"ID": task.node, "Name": hostname(node, view)} if task and node else {},
        "Config": {
            "Image": main.image,
            "Env": main.env,
            "Cmd": main.args,
            "Entrypoint": main.command or None,
            "Labels": dict(main.labels),
            "Tty": main.tty,
            "Hostname": main.hostname,
        },
        "HostConfig": {"NetworkMode": "flatmesh", "LogConfig": {"Type": "json-file"}},
        "Mounts": [],
        "NetworkSettings": {
            "Ports": {},
            "IPAddress": address,
            "Networks": {"flatmesh": {"IPAddress": address}},
        },
    }
