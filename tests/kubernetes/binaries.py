# SPDX-License-Identifier: Apache-2.0
"""Where Kubernetes' own programs are: built once by tests/kubernetes/build."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("FLATMESH_KUBERNETES", "/var/cache/flatmesh-kubernetes"))


def binary(program: str) -> Path:
    """Where a program is, if it was built."""
    return FOLDER / "bin" / program


def missing(*programs: str) -> str | None:
    """Why tests with these programs can't run here; None when they can."""
    lacking = [program for program in programs if not os.access(binary(program), os.X_OK)]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not built: tests/kubernetes/build {' '.join(lacking)}"
