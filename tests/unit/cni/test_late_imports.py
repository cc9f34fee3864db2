# SPDX-License-Identifier: Apache-2.0
"""What an executable imports only when it needs it, the daemon imports at its start."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from cni.plugin_table import IMPORTED_LATE

CNI = Path(__file__).parents[3] / "cni"


def late_imports(path: Path) -> set[str]:
    """The modules of ours that a module imports inside functions."""
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    found = set()
    for node in (inner for function in functions for inner in ast.walk(function)):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            is_module = find_spec(node.module) is not None and _is_module(whole)
            found.add(whole if is_module else node.module)
    return {name for name in found if name.split(".")[0] in {"cni", "hostnet", "ipam", "base"}}


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_the_daemon_imports_all_of_them() -> None:
    files = [p for p in CNI.rglob("*.py") if p.parent.name != "socket" and p.name != "main.py"]
    found = set().union(*map(late_imports, files)) | {"cni.pod.living"}
    assert found == set(IMPORTED_LATE)
