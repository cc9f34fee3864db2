# SPDX-License-Identifier: Apache-2.0
"""Which node this process is."""

from __future__ import annotations

import os

from scheduler.settings import Settings
from scheduler.store.documents import new_id

FILE = "node-id"


def node_id(settings: Settings) -> str:
    """This node's id: the one that is set, else one that is made once and kept in a file."""
    if settings.node_id:
        return settings.node_id
    file = settings.state_dir / FILE
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = settings.state_dir / f"{FILE}.{os.getpid()}"
    try:
        fresh.write_text(new_id() + "\n")
        os.link(fresh, file)  # the first of two processes wins
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
    return file.read_text().strip()
