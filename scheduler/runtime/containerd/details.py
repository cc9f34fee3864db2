# SPDX-License-Identifier: Apache-2.0
"""What containerd tells of a running container beyond CRI's fields, and where its cgroup is."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.runtime.process import capabilities


@dataclass(frozen=True, slots=True)
class ContainerDetails:
    """What is needed to enter a container."""

    pid: int = 0
    env: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = "0:0"
    capabilities: int = 0


def details(info: str) -> ContainerDetails:
    """Read the `info` of a verbose ContainerStatus; what is missing there has its default."""
    try:
        data: dict[str, Any] = json.loads(info)
    except ValueError:
        return ContainerDetails()
    process = (data.get("runtimeSpec") or {}).get("process") or {}
    user = process.get("user") or {}
    bounding = (process.get("capabilities") or {}).get("bounding") or ()
    return ContainerDetails(
        int(data.get("pid") or 0),
        tuple(map(str, process.get("env") or ())),
        str(process.get("cwd") or "/"),
        f"{int(user.get('uid') or 0)}:{int(user.get('gid') or 0)}",
        capabilities.mask(map(str, bounding), ("ALL",)),
    )


def cgroup_of(pid: int) -> str:
    """The cgroup of a process below the root, of the memory controller or version 2; or empty."""
    found = ""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return path.lstrip("/")
            if not controllers:
                found = path.lstrip("/")
    return found
