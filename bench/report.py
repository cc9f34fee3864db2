# SPDX-License-Identifier: Apache-2.0
"""One format for every measurement: rows of a figure, compared with a named baseline.

An absolute figure depends on the machine and on what else it does at the moment; the ratio to
a baseline measured in the same run depends on neither. A report prints a table and writes JSON:

    {"title": ..., "baseline": ..., "machine": {...},
     "rows": [{"subject": "vxlan", "what": "TCP 1 stream", "value": 8.9, "unit": "Gbit/s",
               "ratio": 0.66}, ...]}
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    subject: str
    """Which program or setting was measured."""
    what: str
    """What was measured."""
    value: float
    unit: str
    ratio: float | None = None
    """To the baseline's figure of the same `what`; None when there is none."""


@dataclass(slots=True)
class Report:
    """The figures of one run."""

    title: str
    baseline: str
    """The subject that the others are compared with."""
    rows: list[Row] = field(default_factory=list)

    def add(self, subject: str, what: str, value: float, unit: str) -> None:
        """Add a figure."""
        self.rows.append(Row(subject, what, value, unit))

    def compared(self) -> list[Row]:
        """All rows with their ratios."""
        base = {row.what: row.value for row in self.rows if row.subject == self.baseline}
        return [
            Row(
                row.subject,
                row.what,
                row.value,
                row.unit,
                row.value / base[row.what] if base.get(row.what) else None,
            )
            for row in self.rows
        ]

    def ratio(self, subject: str, what: str) -> float:
        """One ratio. Raises KeyError when it was not measured or has no baseline."""
        for row in self.compared():
            if (row.subject, row.what) == (subject, what) and row.ratio is not None:
                return row.ratio
        raise KeyError(f"{subject}: {what}")

    def show(self, json_file: Path | None = None) -> None:
        """Print the table; write the JSON too when a file is given."""
        rows = self.compared()
        table = Table(title=f"{self.title} (ratio to: {self.baseline})", title_justify="left")
        table.add_column("what")
        table.add_column("subject")
        for column in ("value", "unit", "ratio"):
            table.add_column(column, justify="right" if column != "unit" else "left")
        last = None
        for row in rows:
            if last is not None and row.what != last:
                table.add_section()
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            what = row.what if row.what != last else ""
            table.add_row(what, row.subject, f"{row.value:.4g}", row.unit, ratio)
            last = row.what
        Console().print(table)
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            document = {
                "title": self.title,
                "baseline": self.baseline,
                "machine": machine(),
                "rows": [asdict(row) for row in rows],
            }
            json_file.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, str | int | None]:
    """What the figures were taken on."""
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
