# SPDX-License-Identifier: Apache-2.0
"""Tells the CNI plugins that pods become ports of obr0 (`cni.pod.attach_mode` reads it).

There is no file where pods are ports of kbr0. It is in the run directory, because it holds
for as long as the host runs.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from base.paths import ATTACH_FILE
from base.private_files import write_private

CONTENT = json.dumps({"bridge": None, "mode": "ovs"})


def publish(run_dir: Path) -> None:
    """Write the file in one step, unless it is there already. Raises OSError."""
    path = run_dir / ATTACH_FILE
    with contextlib.suppress(OSError):
        if path.read_text() == CONTENT:
            return
    write_private(path, CONTENT)


def withdraw(run_dir: Path) -> None:
    """Delete the file if it is there. Raises OSError."""
    (run_dir / ATTACH_FILE).unlink(missing_ok=True)
