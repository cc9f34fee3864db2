# SPDX-License-Identifier: Apache-2.0
"""A renamed or re-signed method at a central seam fails mypy --strict.

The product is copied, one method of an implementation is changed where it is defined, and mypy
must complain in another file: where the implementation is handed out as its protocol. Casts
and isinstance at run time would hide such a change, and a part of flatmesh would silently stop
working.
"""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Seam:
    """A method of a class, or a function of a module, that fulfils a protocol."""

    path: str
    """A file, or the folder whose files are searched for the class."""
    name: str
    """`Class.method` or `function`."""

    def find(self, tree: Path) -> tuple[Path, int]:
        """The file and the line (from 0) of its definition."""
        place = tree / self.path
        owner, _, method = self.name.rpartition(".")
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            body = ast.parse(file.read_text()).body
            if owner:
                classes = (node for node in body if isinstance(node, ast.ClassDef))
                body = [part for node in classes if node.name == owner for part in node.body]
            for node in body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method:
                    return file, node.lineno - 1
        raise AssertionError(f"{self.path} defines no {self.name}: name the seam anew")

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


SEAMS = [
    Seam("flannel", "HostGwBackend.peer"),
    Seam("flannel", "UdpDataPlane.samples"),
    Seam("ovs_mesh", "OvsDataPlane.mark_dirty"),
    Seam("ovs_mesh", "OvsDataPlane.reconcile"),
    Seam("agent/controllers", "OverlayController.desired"),
    Seam("agent/controllers", "ForwardingController.cleanup"),
    Seam("ipam", "EtcdLeaseSource.hold"),
    Seam("ipam", "EtcdLeaseSource.connect_anew"),
    Seam("cni/pod/plugin.py", "delete"),
    Seam("cni/ipam_plugin.py", "check"),
    Seam("cni/flannel_alias/plugin.py", "gc"),
    Seam("agent/controllers", "DataPlaneController.status"),
    Seam("hostnet/kinds", "RouteKind.read"),
    Seam("hostnet/kinds", "RuleKind.apply"),
    Seam("hostnet/kinds/links", "VethKind.parse"),
]


def renamed(line: str) -> str:
    return re.sub(r"def (\w+)\(", r"def \1_renamed(", line, count=1)


def with_another_parameter(line: str) -> str:
    """Insert a required parameter before the others; the line may end after the parenthesis."""
    return re.sub(r"(def \w+\()(self(?:, |$|(?=\))))?", _insert, line.rstrip(), count=1) + "\n"


def _insert(found: re.Match[str]) -> str:
    own = (found[2] or "").removesuffix(", ")
    return f"{found[1]}{own}{', ' if own else ''}added: int, "


@dataclass(frozen=True, slots=True)
class Checked:
    """A copy of the product that mypy has checked once: each further check takes half a second.

    mypy then looks again only at modules that depend on the changed one, as in a developer's
    checkout. That is a stricter test than a check from nothing: a backend whose `data_plane`
    was annotated with its own class instead of the protocol was missed by it.
    """

    tree: Path
    packages: tuple[str, ...]

    def errors(self) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--no-error-summary", *self.packages],
            cwd=self.tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        lines = [line for line in done.stdout.splitlines() if ": error: " in line]
        assert bool(lines) == bool(done.returncode), done.stdout
        return lines


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    names = re.split(r",\s*", config["mypy"]["files"].strip())
    packages = tuple(name for name in names if (REPOSITORY / name / "__init__.py").exists())
    tree = tmp_path_factory.mktemp("product")
    for package in packages:
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(REPOSITORY / package, tree / package, ignore=ignored)
    shutil.copy(REPOSITORY / "setup.cfg", tree)
    return Checked(tree, packages)


def test_the_product_as_it_is_passes(checked: Checked) -> None:
    assert checked.errors() == []


@pytest.mark.parametrize("seam", SEAMS, ids=str)
@pytest.mark.parametrize("change", [renamed, with_another_parameter])
def test_a_changed_method_at_a_seam_is_an_error_elsewhere(
    checked: Checked, seam: Seam, change: Callable[[str], str]
) -> None:
    file, number = seam.find(checked.tree)
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    lines[number] = change(lines[number])
    assert "".join(lines) != text
    file.write_text("".join(lines))
    try:
        own = file.relative_to(checked.tree)
        assert [line for line in checked.errors() if not line.startswith(f"{own}:")]
    finally:
        file.write_text(text)
