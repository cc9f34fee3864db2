# SPDX-License-Identifier: Apache-2.0
"""The cluster config in a file, as a ConfigMap puts it into the pod (`--net-config-path`).

Looked at every INTERVAL seconds: the kubelet changes a mounted ConfigMap by exchanging a symbolic
link, and inotify would have to follow each directory of the path; the file is small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ipam.network import ConfigError, NetworkConfig, parse_config

INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class FileConfig:
    """What the file says."""

    config: NetworkConfig | None
    error: str | None = None
    """Why there is no config, as one line."""
    missing: bool = False


def read_config(path: Path) -> FileConfig:
    """Read it; what is wrong is part of the answer."""
    try:
        return FileConfig(parse_config(path.read_bytes()))
    except FileNotFoundError:
        mend = "mount the ConfigMap with net-conf.json there, or give --net-config-path"
        return FileConfig(None, f"{path}: there is no such file; {mend}", missing=True)
    except OSError as error:
        return FileConfig(None, f"{path}: {error.strerror}")
    except ConfigError as error:
        return FileConfig(None, f"{path}: {error}")


async def follow_config(path: Path) -> AsyncIterator[FileConfig]:
    """Yield what the file says now, and whenever that has changed; never ends."""
    last: FileConfig | None = None
    while True:
        now = read_config(path)
        if now != last:
            last = now
            yield now
        await asyncio.sleep(INTERVAL)
