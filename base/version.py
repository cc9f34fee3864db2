# SPDX-License-Identifier: Apache-2.0
"""The version and the commit that flatmesh was built from."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT_FILE = Path(__file__).with_name("commit.txt")
"""Written when a package is built from a checkout (setup.py); a checkout itself has none."""
UNKNOWN = "unknown"
GIT_TIMEOUT = 5.0  # seconds


def commit() -> str:
    """The commit as git shortens it, `-dirty` with changes that are not committed, or `unknown`."""
    try:
        return COMMIT_FILE.read_text().strip() or UNKNOWN
    except OSError:
        return commit_of_checkout(COMMIT_FILE.parents[1])


def commit_of_checkout(directory: Path) -> str:
    """The commit that is checked out in a directory."""
    if not (directory / ".git").exists():  # another repository may hold it (site-packages in one)
        return UNKNOWN
    git = ("git", "-C", str(directory), "describe", "--always", "--dirty", "--exclude=*")
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return done.stdout.strip() or UNKNOWN


def version_text() -> str:
    """`0.1.0 (commit 0123abc)`."""
    try:
        number = version("flatmesh")
    except PackageNotFoundError:
        number = UNKNOWN
    return f"{number} (commit {commit()})"
