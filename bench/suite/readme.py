# SPDX-License-Identifier: Apache-2.0
"""The section of a Markdown file that a run rewrites, between two marks."""

from __future__ import annotations

from pathlib import Path

from base.errors import FlatmeshError

BEGIN = "<!-- written by `flatmesh bench --update`: begin -->"
END = "<!-- written by `flatmesh bench --update`: end -->"


class MarksError(FlatmeshError):
    """A file without the two marks; one line with the mend."""


def replaced(text: str, section: str, name: str) -> str:
    """Return a file's text with the section between the marks replaced. Raises MarksError."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MarksError(f"{name}: put the section's place in first, two lines: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def update(path: Path, section: str) -> None:
    """Rewrite a file's section. Raises MarksError, OSError."""
    path.write_text(replaced(path.read_text(), section, str(path)))
