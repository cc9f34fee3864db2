# SPDX-License-Identifier: Apache-2.0
"""What is measured, and the samples of a run.

A run has rounds. In each round every subject gives one sample of every figure, so that a subject's
sample and its baseline's were taken within seconds of each other. A ratio is taken of these two,
and the ratios of all rounds have a median, a lowest and a highest: a busy minute of the machine
changes both samples, not their ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of measurement."""

    name: str
    """In the JSON and on the command line."""
    title: str
    unit: str
    more_is_better: bool


FIGURES = (
    Figure("tcp-1", "TCP, 1 stream", "Gbit/s", more_is_better=True),
    Figure("tcp-4", "TCP, 4 streams", "Gbit/s", more_is_better=True),
    Figure("small", "64-byte datagrams", "1000/s", more_is_better=True),
    Figure("rtt-p50", "round trip, median", "ms", more_is_better=False),
    Figure("rtt-p99", "round trip, 99 %", "ms", more_is_better=False),
    Figure("add", "CNI ADD", "ms", more_is_better=False),
    Figure("del", "CNI DEL", "ms", more_is_better=False),
)
TRAFFIC = FIGURES[:5]
CALLS = FIGURES[5:]
BY_NAME = {figure.name: figure for figure in FIGURES}


class Spread(NamedTuple):
    """The median of some samples, and between which two they all lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    @property
    def percent(self) -> float:
        """Half the distance between lowest and highest, in percent of the median."""
        return 50 * (self.high - self.low) / self.median if self.median else 0.0


@dataclass(slots=True)
class Samples:
    """One sample per round, figure and subject; None where a measurement failed."""

    taken: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)
    """By names of figure and subject."""
    errors: list[str] = field(default_factory=list)

    def add(self, figure: str, subject: str, value: float | None) -> None:
        """Add the next round's, with four significant digits: more would be noise."""
        kept = None if value is None else float(f"{value:.4g}")
        self.taken.setdefault((figure, subject), []).append(kept)

    def of(self, figure: str, subject: str) -> list[float | None]:
        """All rounds' samples; empty when it was not measured."""
        return self.taken.get((figure, subject), [])

    def spread(self, figure: str, subject: str) -> Spread | None:
        """Of the samples that there are; None without any."""
        values = [value for value in self.of(figure, subject) if value is not None]
        return Spread.of(values) if values else None

    def ratio(self, figure: str, subject: str, baseline: str) -> Spread | None:
        """Of the rounds' ratios to the baseline's sample; None without any."""
        pairs = zip(self.of(figure, subject), self.of(figure, baseline), strict=False)
        ratios = [value / base for value, base in pairs if value is not None and base]
        return Spread.of(ratios) if ratios else None

    def subjects(self, figures: Iterable[Figure]) -> list[str]:
        """Return the subjects that have a sample of one of the figures, in the order measured."""
        wanted = {figure.name for figure in figures}
        return list(dict.fromkeys(subject for figure, subject in self.taken if figure in wanted))
