# SPDX-License-Identifier: Apache-2.0
"""A run as text: tables of at most 80 columns, and the README's section."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from bench.suite.document import RunResult
from bench.suite.figures import BY_NAME, CALLS, TRAFFIC, Figure
from bench.suite.goals import GOALS, MET, MISSED, Goal, Verdict
from bench.suite.subjects import OURS, PLUGINS, RAW, REFERENCE

WIDTH = 80  # columns
HEADS = {
    "tcp-1": "TCP 1\nGbit/s",
    "tcp-4": "TCP 4\nGbit/s",
    "small": "64 bytes\n1000/s",
    "rtt-p50": "RTT p50\nms",
    "rtt-p99": "RTT p99\nms",
    "add": "ADD\nms",
    "del": "DEL\nms",
}
STYLES = {MET: "green", MISSED: "red"}


def number(value: float) -> str:
    """Return three significant digits without an exponent."""
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def show(result: RunResult, console: Console | None = None) -> None:
    """Print the tables."""
    console = console or Console(highlight=False)
    if not console.is_terminal or console.width < WIDTH:
        console.width = WIDTH
    about = result.about
    for figures, title in (
        (TRAFFIC, "pod to pod: median, ± half the range; rounds: {rounds}"),
        (CALLS, "attaching a pod"),
    ):
        names = [name for name in result.names() if name in result.samples.subjects(figures)]
        if names:
            console.print(_figures_table(result, title.format(**about), figures, names))
    if result.judged and result.verdicts:
        console.print(_goals_table(result.verdicts))
    elif result.verdicts:
        console.print("too short to be judged: run it without --quick\n")
    for subject, reason in result.left_out.items():
        console.print(f"left out: {subject}: {reason}", markup=False)
    for error in result.samples.errors:
        console.print(f"failed: {error}", markup=False, style="red")


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _figures_table(
    result: RunResult, title: str, figures: Sequence[Figure], names: Sequence[str]
) -> Table:
    table = _table(title)
    table.add_column("", no_wrap=True)
    for figure in figures:
        table.add_column(HEADS[figure.name], justify="right", no_wrap=True)
    for name in names:
        cells = []
        for figure in figures:
            spread = result.samples.spread(figure.name, name)
            cells.append(f"{number(spread.median)} ±{spread.percent:.0f}%" if spread else "-")
        bold = result.group(name) == OURS
        table.add_row(name, *cells, style="bold" if bold else None)
    return table


def _goals_table(verdicts: Sequence[Verdict]) -> Table:
    table = _table("goals")
    table.add_column("ratio within a round")
    table.add_column("median", justify="right")
    table.add_column("rounds", justify="right", no_wrap=True)
    table.add_column("")
    for verdict in verdicts:
        ratio = verdict.ratio
        if ratio is not None:
            rounds = f"{ratio.low:.2f}-{ratio.high:.2f}"
            style = STYLES.get(verdict.verdict, "yellow")
            text = f"[{style}]{verdict.verdict}[/{style}]"
            table.add_row(verdict.goal.text, f"{ratio.median:.2f}", rounds, text)
    return table


def markdown(result: RunResult, chart: str, source: str) -> str:
    """Return the README's section: chart, table, machine. `chart`, `source`: paths of the files."""
    about, machine = result.about, result.about["machine"]
    lines = [
        f"![Throughput, small packets, round trip, ADD and DEL]({chart})",
        "",
        (
            "| pod to pod | TCP 1 stream, Gbit/s | TCP 4 streams, Gbit/s "
            "| 64-byte datagrams, 1000/s | round trip p50 / p99, ms |"
        ),
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {_marked(result, name)} | " + " | ".join(_cells(result, name)) + " |"
        for name in result.names()
        if name in result.samples.subjects(TRAFFIC)
    ]
    lines += ["", *_calls(result)]
    met = sum(verdict.verdict == MET for verdict in result.verdicts)
    lines += [
        (
            "In brackets the ratio to the raw underlay in the same round; "
            f"{about['rounds']} rounds, medians."
        ),
        f"{met} of {len(result.verdicts)} [goals](docs/bench.md#goals) met"
        + _not_met(result.verdicts)
        + ".",
        (
            f"Measured by `flatmesh bench` {about['version']} on {machine['processors']} "
            f"processors ({machine['processor'] or machine['architecture']}), "
            f"Linux {machine['kernel']}, {about['started'][:10]}, load {machine['load']}: "
            f"[all samples]({source})."
        ),
    ]
    return "\n".join(lines) + "\n"


def goals_markdown(goals: Sequence[Goal] = GOALS) -> str:
    """Return the table of docs/bench.md."""
    lines = ["| | figure | ratio | to | because |", "|---|---|---|---|---|"]
    for goal in goals:
        title, sign = BY_NAME[goal.figure].title, "≥" if goal.at_least else "≤"
        limit = f"{sign} {goal.limit:.2f}"
        lines.append(f"| {goal.subject} | {title} | {limit} | {goal.baseline} | {goal.source} |")
    return "\n".join(lines) + "\n"


def _marked(result: RunResult, name: str) -> str:
    return f"**{name}**" if result.group(name) == OURS else name


def _cells(result: RunResult, name: str) -> list[str]:
    cells = []
    for figure in TRAFFIC[:3]:
        spread = result.samples.spread(figure.name, name)
        ratio = result.samples.ratio(figure.name, name, RAW)
        text = number(spread.median) if spread else "-"
        cells.append(text + (f" ({ratio.median:.2f})" if ratio and name != RAW else ""))
    spreads = (result.samples.spread(figure.name, name) for figure in TRAFFIC[3:])
    cells.append(" / ".join(number(spread.median) if spread else "-" for spread in spreads))
    return cells


def _calls(result: RunResult) -> list[str]:
    parts = []
    for figure in CALLS:
        ours = result.samples.spread(figure.name, PLUGINS)
        theirs = result.samples.spread(figure.name, REFERENCE)
        if ours and theirs:
            parts.append(
                f"{figure.title} {number(ours.median)} ms, {REFERENCE} {number(theirs.median)} ms"
            )
    return [f"Attaching a pod: {'; '.join(parts)}.", ""] if parts else []


def _not_met(verdicts: Sequence[Verdict]) -> str:
    texts = [
        f"{verdict.verdict}: {verdict.goal.text}, was {verdict.ratio.median:.2f}"
        for verdict in verdicts
        if verdict.verdict != MET and verdict.ratio
    ]
    return f"; {'; '.join(texts)}" if texts else ""
