# SPDX-License-Identifier: Apache-2.0
"""`-o table|json|yaml|wide`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click
import pytest
import yaml
from click.testing import CliRunner

from base.output import Column, Output, output_option

COLUMNS = (
    Column("name", "The host's name."),
    Column("seconds", "Seconds.", title="age", text=lambda value: f"{value} s"),
    Column("addresses", "Its addresses."),
    Column("mac", "MAC.", wide=True),
    Column("revision", "For programs.", machine=True),
)


@dataclass(frozen=True)
class Row:
    name: str
    seconds: int
    addresses: tuple[str, ...] = ()
    mac: str | None = None
    revision: int = 7


ROWS = (Row("h1", 90, ("10.5.1.1", "fd05::1"), "aa:bb:cc:dd:ee:ff"), {"name": "h2", "seconds": 3})


@click.command()
@output_option(COLUMNS)
def rows(output: Output) -> None:
    output.show(ROWS)


def run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(rows, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def test_json_and_yaml_have_every_field_with_its_raw_value() -> None:
    expected = [
        {
            "name": "h1",
            "seconds": 90,
            "addresses": ["10.5.1.1", "fd05::1"],
            "mac": "aa:bb:cc:dd:ee:ff",
            "revision": 7,
        },
        {"name": "h2", "seconds": 3, "addresses": None, "mac": None, "revision": None},
    ]
    assert json.loads(run("-o", "json")) == expected
    assert yaml.safe_load(run("-o", "yaml")) == expected


def test_the_table_is_for_people_and_wide_has_more() -> None:
    table = run().splitlines()
    assert table[0].split() == ["NAME", "AGE", "ADDRESSES"]
    assert table[1].split() == ["h1", "90", "s", "10.5.1.1,", "fd05::1"]
    assert table[2].split() == ["h2", "3", "s", "-"]
    assert run("-o", "wide").splitlines()[0].split() == ["NAME", "AGE", "ADDRESSES", "MAC"]


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_table_fits_its_terminal(columns: str) -> None:
    long = Row("h" * 100, 1)

    @click.command()
    @output_option(COLUMNS)
    def one(output: Output) -> None:
        output.show([long])

    text = CliRunner().invoke(one, [], env={"COLUMNS": columns}).output
    assert max(map(len, text.splitlines())) <= int(columns)
    assert text.count("h") == 100, "nothing is cut off"


def test_without_a_terminal_a_row_is_one_line_without_colours() -> None:
    text = run(environment={"COLUMNS": ""})
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text


def test_text_from_outside_does_not_control_the_terminal() -> None:
    @click.command()
    @output_option(COLUMNS)
    def one(output: Output) -> None:
        output.show([Row("\x1b[31m[bold]evil", 1)])

    text = CliRunner().invoke(one, []).output
    assert "\x1b" not in text
    assert r"\x1b[31m[bold]evil" in text
