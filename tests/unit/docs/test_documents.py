# SPDX-License-Identifier: Apache-2.0
"""Links in all Markdown files lead somewhere, and what the documents name is in the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:[a-z_0-9]+/)+[a-z_0-9]*(?:\.[a-z]+)?)`")
"""`room/file.py` or `room/folder/`."""
IDENTIFIER = re.compile(r"`([A-Z][A-Za-z]*[a-z][A-Za-z]*(?:\.[A-Za-z_]+)*|[A-Z]{4,}S)(?:\(\))?`")
"""`ClassName`, `ClassName.method`, and tables like `BACKENDS`."""
NAMING_CODE = ("ARCHITECTURE.md", "CONTRIBUTING.md")
NOT_CODE = {"SIGTERM"}


def markdown_files() -> list[Path]:
    skipped = {".venv", ".git", "build"}
    return [
        path
        for path in sorted(REPOSITORY.rglob("*.md"))
        if not skipped & set(path.relative_to(REPOSITORY).parts)
    ]


def heading_anchors(path: Path) -> set[str]:
    """The anchors that a forge makes of the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def code() -> str:
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.c"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    return "\n".join((REPOSITORY / name).read_text() for name in files)


@pytest.mark.parametrize("path", markdown_files(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    broken = []
    for link in LINK.findall(path.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists() or (anchor and anchor not in heading_anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", NAMING_CODE)
def test_paths_that_are_named_exist(name: str) -> None:
    named = PATH.findall((REPOSITORY / name).read_text())
    assert len(named) > 10
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("name", NAMING_CODE)
def test_identifiers_that_are_named_are_in_the_code(name: str) -> None:
    text = code()
    named = IDENTIFIER.findall((REPOSITORY / name).read_text())
    assert len(named) > 5
    missing = [
        identifier
        for identifier in named
        if identifier not in NOT_CODE
        and any(not re.search(rf"\b{part}\b", text) for part in identifier.split("."))
    ]
    assert missing == []
