# SPDX-License-Identifier: Apache-2.0
"""The table of `flatmesh lab up --docker`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lab.docker.containers import LabContainer, measure


def show_containers(console: Console, containers: Sequence[LabContainer]) -> bool:
    """Ping between all containers and print how that went; returns whether all is well."""
    table = Table("from", "to", "address", "by name", "by address")
    good = True
    for pair in measure(containers):
        times = (
            "[red]no[/red]" if t is None else f"{t:.2f} ms" for t in (pair.by_name, pair.by_address)
        )
        table.add_row(pair.sender, pair.receiver, pair.address, *times)
        good &= pair.good
    console.print(table)
    return good
