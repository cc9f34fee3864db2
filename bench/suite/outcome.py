# SPDX-License-Identifier: Apache-2.0
"""What is made of a run: tables on stdout, files, the README's section."""

from __future__ import annotations

from pathlib import Path

from bench.suite import chart, readme, table
from bench.suite.document import RunResult

__all__ = ["RunResult", "check", "publish"]

NAME = "bench"
BESIDE_README = Path("docs/bench")


def check(save: Path | None, update: Path | None) -> None:
    """Find out before minutes of measuring what would fail after them.

    Raises MarksError, OSError.
    """
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    if update is not None:
        readme.replaced(update.read_text(), "", str(update))


def publish(result: RunResult, save: Path | None, update: Path | None) -> None:
    """Show a run and write its files. Raises MarksError, OSError."""
    table.show(result)
    if save is not None:
        write(result, save)
    if update is not None:
        write(result, update.parent / BESIDE_README)
        svg, source = (str(BESIDE_README / f"{NAME}{suffix}") for suffix in (".svg", ".json"))
        readme.update(update, table.markdown(result, svg, source))


def write(result: RunResult, directory: Path) -> None:
    """Write JSON and chart. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{NAME}.json").write_text(result.to_json())
    chart.write(result, directory / f"{NAME}.svg", directory / f"{NAME}.png")
