# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from rich.console import Console

from base.errors import FlatmeshError
from bench.commands import bench_group
from bench.suite import chart, outcome, readme, table
from bench.suite.document import RunResult

REPOSITORY = Path(__file__).parents[3]
COMMITTED = REPOSITORY / "docs/bench/bench.json"
PNG = b"\x89PNG\r\n\x1a\n"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result() -> RunResult:
    return RunResult.read(COMMITTED)


def test_the_readme_shows_the_committed_run(result: RunResult) -> None:
    text = (REPOSITORY / "README.md").read_text()
    section = table.markdown(result, "docs/bench/bench.svg", "docs/bench/bench.json")
    assert readme.replaced(text, section, "README.md") == text
    for suffix in ("svg", "png", "json"):
        assert (REPOSITORY / f"docs/bench/bench.{suffix}").exists()
    assert (REPOSITORY / "docs/bench/bench.svg").read_text() == chart.drawn(result).svg()


def test_the_documented_goals_are_those_that_judge() -> None:
    assert table.goals_markdown() in (REPOSITORY / "docs/bench.md").read_text()


def test_a_file_says_the_same_after_it_was_read(result: RunResult, tmp_path: Path) -> None:
    outcome.write(result, tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(result.to_json())
    again = RunResult.read(tmp_path / "bench.json")
    assert again.to_json() == result.to_json()
    assert (tmp_path / "bench.png").read_bytes().startswith(PNG)


def test_the_chart_has_a_bar_and_a_figure_for_every_sample(result: RunResult) -> None:
    root = ET.fromstring(chart.drawn(result).svg())  # noqa: S314 - our own text
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("height") == f"{chart.BAR:.1f}"]
    words = [str(one.text) for one in root.iter(f"{SVG}text")]
    shown = [(f, s) for f, s in result.samples.taken if f in chart.PANELS]
    assert len(bars) == len(shown)
    assert {subject for _, subject in shown} <= set(words)


def test_tables_fit_80_columns(result: RunResult) -> None:
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    table.show(result, console)
    lines = console.export_text().splitlines()
    assert "goals" in "\n".join(lines)
    assert max(len(line.rstrip()) for line in lines) <= table.WIDTH


def test_only_the_section_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    new = readme.replaced(text, "new\n", "x")
    assert new == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"
    with pytest.raises(FlatmeshError, match="two lines"):
        readme.replaced("no marks", "new", str(tmp_path))


def test_update_rewrites_a_readme_from_an_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"{readme.BEGIN}\n{readme.END}\n")
    done = CliRunner().invoke(bench_group, ["--from", str(COMMITTED), "--update", str(file)])
    assert "docs/bench/bench.svg" in file.read_text(), done.output
    assert (tmp_path / "docs/bench/bench.png").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}'])
def test_another_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(FlatmeshError) as refused:
        RunResult.read(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "vxlam"], "there are host-gw, vxlan, udp, wireguard, ovs"),
        (["--between", "h1"], "HOST1,HOST2"),
        (["--from", "/nowhere/bench.json"], "/nowhere/bench.json"),
        (["--update", "/nowhere/README.md"], "/nowhere/README.md"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench_group, arguments)
    assert done.exit_code
    assert words in done.output + str(done.exception)
