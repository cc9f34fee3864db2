# SPDX-License-Identifier: Apache-2.0
"""The chart of a run: a panel per figure, a bar per subject.

A bar is the median; the thin line over its end goes from the lowest round to the highest. Bars of
flatmesh are blue, its baselines grey, the raw underlay dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.suite.document import RunResult
from bench.suite.drawing import Box, Drawing, Shape, Stroke, Words
from bench.suite.figures import BY_NAME, Figure
from bench.suite.subjects import BASELINE, OURS, UNDERLAY
from bench.suite.table import number

PANELS = ("tcp-1", "tcp-4", "small", "rtt-p50", "add", "del")
COLOURS = {OURS: "#0969da", BASELINE: "#afb8c1", UNDERLAY: "#57606a"}
LEGEND = {
    OURS: "flatmesh",
    BASELINE: "made by hand, or by others",
    UNDERLAY: "host to host, no pods",
}
RANGE, GREY = "#24292f", "#57606a"
WIDTH, COLUMNS = 880, 2  # pixels, panels side by side
MARGIN, GAP = 16, 24  # pixels
NAMES, VALUES = 112, 52  # pixels for the subjects' names, and for the figures right of the bars
BAR, STEP = 13, 19  # pixels: height of a bar, and from one to the next
PANEL_HEAD, HEAD, FOOT = 30, 46, 30  # pixels


def drawn(result: RunResult) -> Drawing:
    """Return the chart."""
    panels = [
        (BY_NAME[name], names)
        for name in PANELS
        if (names := [one for one in result.names() if result.samples.of(name, one)])
    ]
    width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    shapes: list[Shape] = list(_head(result))
    y = float(HEAD)
    for first in range(0, len(panels), COLUMNS):
        row = panels[first : first + COLUMNS]
        for column, (figure, names) in enumerate(row):
            x = MARGIN + column * (width + GAP)
            shapes += _panel(result, figure, names, (x, y, width))
        y += PANEL_HEAD + max(len(names) for _, names in row) * STEP + GAP
    about, machine = result.about, result.about["machine"]
    foot = (
        f"flatmesh {about['version']}, {about['started'][:10]}: {machine['processors']} processors,"
        f" Linux {machine['kernel']}, {about['rounds']} rounds; thin lines: lowest to highest round"
    )
    shapes.append(Words(MARGIN, y + FOOT - GAP, foot, 10, GREY))
    title = "Throughput, small packets, round trip and CNI calls of flatmesh and its baselines"
    return Drawing(WIDTH, int(y + FOOT - GAP / 2), shapes, title)


def write(result: RunResult, svg: Path, png: Path) -> None:
    """Write both files. Raises OSError."""
    drawing = drawn(result)
    svg.write_text(drawing.svg())
    drawing.write_png(png)


def _head(result: RunResult) -> Iterator[Shape]:
    hosts = result.about["arguments"]["between"] or "two hosts of one machine"
    yield Words(MARGIN, 22, f"pod to pod between {hosts}", 15)
    x = float(MARGIN)
    for group, text in LEGEND.items():
        yield Box(x, 32, 10, 10, COLOURS[group])
        yield Words(x + 15, 41, text, 11, GREY)
        x += 15 + 7 * len(text) + 24


def _panel(
    result: RunResult, figure: Figure, names: Sequence[str], place: tuple[float, float, float]
) -> Iterator[Shape]:
    x, y, width = place
    better = "more is better" if figure.more_is_better else "less is better"
    yield Words(x, y + 18, f"{figure.title}, {figure.unit}", 13)
    yield Words(x + width, y + 18, better, 10, GREY, "end")
    left, room = x + NAMES, width - NAMES - VALUES
    spreads = {name: result.samples.spread(figure.name, name) for name in names}
    # the longest bar ends where the figures begin; a round far off may not shorten all bars
    longest = max((spread.median for spread in spreads.values() if spread), default=1.0) or 1.0
    for place_in_panel, name in enumerate(names):
        top = y + PANEL_HEAD + place_in_panel * STEP
        middle = top + BAR / 2
        group = result.group(name)
        yield Words(left - 6, top + BAR - 3, name, 11, RANGE if group == OURS else GREY, "end")
        spread = spreads[name]
        if spread is None:
            yield Words(left, top + BAR - 3, "failed", 11, GREY)
            continue
        length = spread.median / longest * room
        low, high = (min(end / longest, 1.0) * room for end in (spread.low, spread.high))
        yield Box(left, top, max(length, 1.0), BAR, COLOURS[group])
        yield Stroke(left + low, middle, left + high, middle, RANGE)
        at = left + max(length, high) + 5
        yield Words(at, top + BAR - 3, number(spread.median), 11, RANGE)
    yield Stroke(left, y + PANEL_HEAD - 3, left, y + PANEL_HEAD + len(names) * STEP - 3, GREY)
