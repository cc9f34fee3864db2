# SPDX-License-Identifier: Apache-2.0
"""Values of keys: JSON to objects and back. What is stored may be anybody's, so reading checks.

Tasks and their states are read and written by hand: there are many of them.
"""

from __future__ import annotations

import json
from typing import Any

from scheduler.errors import SpecError
from scheduler.model.base import Document, Model, parse
from scheduler.model.task import STATES, HostPort, Task, TaskStatus


def encode(document: Document) -> bytes:
    """A document as JSON."""
    return dumps(document.document())


def decode(model: type[Model], value: bytes) -> Model:
    """A document from JSON. Raises SpecError."""
    return parse(model, loads(value))


def dumps(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def loads(value: bytes) -> Any:
    """Read JSON. Raises SpecError."""
    try:
        return json.loads(value)
    except ValueError as error:
        raise SpecError(f"not JSON: {error}") from None


def encode_task(task: Task) -> bytes:
    """A task without its version, id and node: these are in the key."""
    document: dict[str, Any] = {
        "ServiceID": task.service,
        "Slot": task.slot,
        "SpecVersion": task.spec_version,
        "DesiredState": task.desired.docker,
        "CreatedAt": round(task.created, 3),
    }
    if task.draining:
        document["Draining"] = True
    if task.attempt:
        document["Attempt"] = task.attempt
    if task.reason:
        document["Reason"] = task.reason
    if task.name:
        document["Name"] = task.name
    if task.host_ports:
        document["Ports"] = _ports_document(task.host_ports)
    return dumps(document)


def decode_task(value: bytes, task: str, node: str, version: int) -> Task:
    """Read a task. Raises SpecError."""
    given = loads(value)
    try:
        return Task(
            id=task,
            service=str(given["ServiceID"]),
            slot=int(given["Slot"]),
            spec_version=int(given["SpecVersion"]),
            node=node,
            desired=STATES[given["DesiredState"]],
            draining=bool(given.get("Draining", False)),
            created=float(given.get("CreatedAt", 0)),
            attempt=int(given.get("Attempt", 0)),
            reason=str(given.get("Reason", "")),
            host_ports=_ports(given.get("Ports")),
            name=str(given.get("Name", "")),
            version=version,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"task {task}: {error!r}") from None


def encode_status(status: TaskStatus) -> bytes:
    """What was observed of a task."""
    document: dict[str, Any] = {
        "State": status.state.docker,
        "Timestamp": round(status.timestamp, 6),
    }
    if status.message:
        document["Message"] = status.message
    if status.err:
        document["Err"] = status.err
    container: dict[str, Any] = {}
    if status.container:
        container["ContainerID"] = status.container
    if status.pid:
        container["PID"] = status.pid
    if status.exit_code is not None:
        container["ExitCode"] = status.exit_code
    if container:
        document["ContainerStatus"] = container
    if status.addresses:
        document["Addresses"] = list(status.addresses)
    if status.health:
        document["Health"] = status.health
    if status.ports:
        document["PortStatus"] = _ports_document(status.ports)
    return dumps(document)


def decode_status(value: bytes, version: int) -> TaskStatus:
    """Read what was observed. Raises SpecError."""
    given = loads(value)
    try:
        container = given.get("ContainerStatus") or {}
        return TaskStatus(
            state=STATES[given["State"]],
            timestamp=float(given.get("Timestamp", 0)),
            message=str(given.get("Message", "")),
            err=str(given.get("Err", "")),
            pid=int(container.get("PID", 0)),
            exit_code=container.get("ExitCode"),
            container=str(container.get("ContainerID", "")),
            addresses=tuple(map(str, given.get("Addresses", ()))),
            health=str(given.get("Health", "")),
            ports=_ports(given.get("PortStatus")),
            version=version,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"status: {error!r}") from None


def _ports_document(ports: tuple[HostPort, ...]) -> list[dict[str, Any]]:
    return [
        {
            "Protocol": port.protocol,
            "PublishedPort": port.published,
            "TargetPort": port.target,
            "PublishMode": "host",
        }
        for port in ports
    ]


def _ports(given: Any) -> tuple[HostPort, ...]:
    return tuple(
        HostPort(str(one["Protocol"]), int(one["PublishedPort"]), int(one["TargetPort"]))
        for one in given or ()
    )
