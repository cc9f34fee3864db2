# SPDX-License-Identifier: Apache-2.0
"""A config is read in cni/config alone; elsewhere it is passed on to other plugins as it is."""

from __future__ import annotations

import ast
from pathlib import Path

CNI = Path(__file__).resolve().parents[3] / "cni"
READERS = ("config", "result", "fields.py")
PASSED_ON = {
    "cni/delegate/remembered.py",
    "cni/delegate/run.py",
    "cni/pod/attach.py",
    "cni/pod/plugin.py",
    "cni/pod/removal.py",
}
"""Files that hand `request.config.raw` to a delegated plugin."""


def uses_of_config(file: Path) -> set[str]:
    """The attributes X of every `….config.X` and of every `request.config` that is no more."""
    uses, inner = set(), set()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_config(node.value):
            uses.add(node.attr)
            inner.add(node.value)
    whole = [node for node in ast.walk(tree) if _is_config(node) and node not in inner]
    return uses | {"the object itself" for _ in whole}


def _is_config(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "config"
        and isinstance(node.value, ast.Name)
        and node.value.id == "request"
    )


def test_only_cni_config_reads_keys_of_a_config() -> None:
    for file in sorted(CNI.rglob("*.py")):
        below = file.relative_to(CNI)
        if below.parts[0] in READERS:
            continue
        name = f"cni/{below.as_posix()}"
        assert uses_of_config(file) <= ({"raw"} if name in PASSED_ON else set()), name


def test_a_file_that_reads_a_key_would_be_found(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text('def f(request):\n    return request.config.value("ipam")\n')
    assert uses_of_config(sample) == {"value"}
    sample.write_text("def f(request):\n    return read(request.config)\n")
    assert uses_of_config(sample) == {"the object itself"}
