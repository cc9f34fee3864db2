# SPDX-License-Identifier: Apache-2.0
"""Rotation of logs that containerd writes: the kubelet's part of CRI."""

from __future__ import annotations

import contextlib
from pathlib import Path

from scheduler.runtime.containerd import cri_pb2 as pb
from scheduler.runtime.containerd.connection import CriConnection
from scheduler.runtime.containerd.messages import LOG_BYTES, LOG_FILES
from scheduler.runtime.protocol import LogRotation


async def rotate(cri: CriConnection, container: pb.Container, path: Path) -> None:
    """Rename a log that is too large, and have containerd open a new one."""
    default = LogRotation()
    largest = int(container.annotations.get(LOG_BYTES, default.max_bytes))
    files = max(1, int(container.annotations.get(LOG_FILES, default.max_files)))
    if not _too_large(path, largest):
        return
    _shift(path, files)
    await cri.call("ReopenContainerLog", pb.ContainerRequest(container_id=container.id), pb.Empty)


def _too_large(path: Path, largest: int) -> bool:
    try:
        return path.stat().st_size > largest
    except OSError:
        return False


def _shift(path: Path, files: int) -> None:
    for number in range(files - 1, 0, -1):
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        with contextlib.suppress(FileNotFoundError):
            newer.replace(path.with_name(f"{path.name}.{number}"))
    if files == 1:
        path.unlink(missing_ok=True)
