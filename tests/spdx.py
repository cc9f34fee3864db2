# SPDX-License-Identifier: Apache-2.0
"""The licence line at the head of each source file.

.venv/bin/python -m tests.spdx    add it where it is missing
"""

from __future__ import annotations

from pathlib import Path

LICENCE = "SPDX-License-Identifier: Apache-2.0"
SLASHES = {".c", ".h"}


def line_for(path: Path) -> str:
    """The line, as a comment of the file's language."""
    return f"/* {LICENCE} */" if path.suffix in SLASHES else f"# {LICENCE}"


def has_line(path: Path) -> bool:
    """Whether the first line says it, or the second behind `#!`."""
    lines = path.read_text().splitlines()[:2]
    first = lines[1:] if lines and lines[0].startswith("#!") else lines
    return first[:1] == [line_for(path)]


def add_line(path: Path) -> None:
    """Put it at the head."""
    text = path.read_text()
    interpreter = ""
    if text.startswith("#!"):
        interpreter, _, text = text.partition("\n")
        interpreter += "\n"
    path.write_text(f"{interpreter}{line_for(path)}\n{text}")


def main() -> None:
    """Add it to all source files that lack it."""
    from tests.unit.test_structure import REPOSITORY, code

    for path in code():
        if not has_line(REPOSITORY / path):
            add_line(REPOSITORY / path)
            print(path)


if __name__ == "__main__":
    main()
