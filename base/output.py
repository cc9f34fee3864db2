# SPDX-License-Identifier: Apache-2.0
"""`-o table|json|yaml|wide`: how the commands print what they list.

A command declares its columns, and gets an `Output` that prints rows of them:

    LEASES = (
        Column("subnet", "The lease's subnets."),
        Column("expires_in", "Seconds until it expires; null: never.", text=duration),
        Column("backend", "Backend.Type.", wide=True),
    )

    @command("list")
    @output_option(LEASES)
    def list_leases(output: Output) -> None:
        output.show(rows)          # mappings or dataclasses, values raw

JSON and YAML hold every column under its field name, which stays as it is from version to version
(docs/reference/output.md lists them), with the raw value. The table has those for people: short
text, and only what fits 80 columns; `wide` has all columns. In a terminal a cell that is too long
goes on in the next line; elsewhere every row is one line, so that grep works.

Colours only in a terminal, and never when NO_COLOR is set (rich and click see to it).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from base.command_line import Choice

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FORMATS = ("table", "json", "yaml", "wide")
UNLIMITED = 10_000  # columns of a table that is not printed in a terminal: nothing is folded
Command = TypeVar("Command", bound=Callable[..., Any])


def plain(value: object) -> str:
    """A raw value as a cell of a table."""
    match value:
        case None | "" | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(plain(one) for one in value) or "-"
        case _:
            return str(value)


def no_style(_value: object) -> str:
    """No colour."""
    return ""


@dataclass(frozen=True, slots=True)
class Column:
    """One field of what a command lists."""

    field: str
    """Its name in JSON and YAML; it must not change."""
    meaning: str
    """For docs/reference/output.md: what the raw value is, in which unit."""
    title: str = ""
    """Heading in tables; default: the field's name."""
    wide: bool = False
    """Whether tables have it with `-o wide` only."""
    machine: bool = False
    """Whether only JSON and YAML have it."""
    text: Callable[[Any], str] = plain
    """The raw value for people."""
    style: Callable[[Any], str] = no_style
    """Colour of a raw value, as rich writes it: `red`, `green`."""


def raw(row: object, name: str) -> object:
    """A field of a row, which is a mapping or a dataclass; None where it has none."""
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)


def printable(text: str) -> str:
    """Text from outside without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


@dataclass(frozen=True, slots=True)
class Output:
    """The format that was asked for."""

    format: str = "table"
    columns: Sequence[Column] = field(default=(), repr=False)

    @property
    def machine(self) -> bool:
        """Whether a program reads it: JSON or YAML, and nothing else on stdout."""
        return self.format in ("json", "yaml")

    def show(self, rows: Iterable[object], *, title: str | None = None) -> None:
        """Print rows of the command's columns."""
        if self.machine:
            self.write(documents(self.columns, rows))
        else:
            self.table(self.columns, rows, title=title)

    def table(
        self, columns: Sequence[Column], rows: Iterable[object], *, title: str | None = None
    ) -> None:
        """Print a table, of other columns than the command's, too."""
        wide = self.format == "wide"
        screen = console(wide=wide)
        if title:
            screen.print(title, style="bold")
        screen.print(make_table(columns, rows, wide=wide))

    def write(self, document: object) -> None:
        """Print a document of raw values as JSON or YAML."""
        text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
        if self.format == "yaml":
            import yaml  # noqa: PLC0415 - most commands need none

            # by way of JSON: it has the same types in both formats
            text = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True).rstrip()
        click.echo(text)


def documents(columns: Sequence[Column], rows: Iterable[object]) -> list[dict[str, object]]:
    """Rows as mappings from field to raw value, for `Output.write`."""
    return [{column.field: raw(row, column.field) for column in columns} for row in rows]


def make_table(columns: Sequence[Column], rows: Iterable[object], *, wide: bool = False) -> Table:
    """A table for people."""
    from rich.table import Table  # noqa: PLC0415 - 60 ms, which JSON needs not
    from rich.text import Text  # noqa: PLC0415

    shown = [one for one in columns if not one.machine and (wide or not one.wide)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for one in shown:
        heading = (one.title or one.field.replace("_", " ")).upper()
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = []
        for one in shown:
            value = raw(row, one.field)
            cells.append(Text(printable(one.text(value)), style=one.style(value)))
        table.add_row(*cells)
    return table


def console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A console that folds long lines in a terminal, or where COLUMNS is set, unless `wide`."""
    from rich.console import Console  # noqa: PLC0415

    made = Console(highlight=False, markup=False, emoji=False, stderr=stderr)
    if wide or (not made.is_terminal and not os.environ.get("COLUMNS")):
        made.width = UNLIMITED
    return made


class OutputOption(click.Option):
    """`-o`; it knows what the command prints, for the reference."""

    def __init__(
        self,
        *names: Any,
        columns: Sequence[Column],
        sections: Mapping[str, Sequence[Column]],
        **more: Any,
    ) -> None:
        super().__init__(*names, **more)
        self.columns = columns
        self.sections = sections


def output_option(
    columns: Sequence[Column] = (),
    sections: Mapping[str, Sequence[Column]] | None = None,
    default: str = "table",
) -> Callable[[Command], Command]:
    """Add `-o`; the command gets it as the argument `output`, an `Output`.

    `sections`: where the document is an object that holds lists, their columns by field.
    """
    return click.option(
        "-o",
        "--output",
        cls=OutputOption,
        columns=columns,
        sections=sections or {},
        type=Choice(FORMATS),
        default=default,
        show_default=True,
        callback=lambda _context, _option, value: Output(value, columns),
        help="Format; json and yaml are for programs, wide has every column.",
    )
