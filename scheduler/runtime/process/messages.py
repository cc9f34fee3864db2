# SPDX-License-Identifier: Apache-2.0
"""Containers' configs as JSON, on the way from the worker to a pod's supervisor.

They go over a unix socket of root's alone, and are kept in memory: contents of secrets
never reach the disk.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from scheduler.runtime.protocol import (
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    File,
    Limits,
    LogRotation,
    Mount,
)


def container_to_json(config: ContainerConfig) -> dict[str, Any]:
    """A config as a JSON object."""
    found = asdict(config)
    for file in found["files"]:
        file["content"] = base64.b64encode(file["content"]).decode()
    return found


def container_from_json(data: dict[str, Any]) -> ContainerConfig:
    """The config that `container_to_json` made this of."""
    files = [{**f, "content": base64.b64decode(f["content"])} for f in data["files"]]
    fields: dict[str, Any] = {
        **{key: tuple(v) if isinstance(v, list) else v for key, v in data.items()},
        "mounts": tuple(Mount(**m) for m in data["mounts"]),
        "files": tuple(File(**f) for f in files),
        "limits": Limits(**data["limits"]),
        "log": LogRotation(**data["log"]),
    }
    return ContainerConfig(**fields)


def status_from_json(data: dict[str, Any]) -> ContainerStatus:
    """A container's status as a supervisor writes it."""
    return ContainerStatus(**{**data, "state": ContainerState(data["state"])})
