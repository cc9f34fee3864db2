# SPDX-License-Identifier: Apache-2.0
"""The rounds of a run: every figure of every path, then once more.

Within a round the paths are measured one after the other for the same figure, each beside its
baseline. Every second round goes through them backwards, so that neither of a pair always comes
first.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.suite.figures import Samples
from bench.suite.progress import RunProgress
from bench.traffic import MeasureError, TrafficPath, gigabits, round_trips, small_packets

PING_INTERVAL = 0.005  # seconds
ATTEMPTS = 2  # a second one where an iperf3 server has not noticed yet that its last client left


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """How long and how often."""

    rounds: int
    seconds: int
    """Per throughput run."""
    pings: float
    """Seconds of pings."""
    limit: float
    """No further round begins that would end later than so many seconds after the start."""


def measures(
    settings: RoundSettings,
) -> list[tuple[str, tuple[str, ...], Callable[[TrafficPath], tuple[float, ...]]]]:
    """Name, figures and function of each measurement."""

    def latency(path: TrafficPath) -> tuple[float, ...]:
        times = round_trips(path, settings.pings, PING_INTERVAL)
        return statistics.median(times), times[int(len(times) * 0.99)]

    seconds = settings.seconds
    return [
        ("TCP, 1 stream", ("tcp-1",), lambda path: (gigabits(path, seconds, ("-P", "1")),)),
        ("TCP, 4 streams", ("tcp-4",), lambda path: (gigabits(path, seconds, ("-P", "4")),)),
        ("64-byte datagrams", ("small",), lambda path: (small_packets(path, seconds) / 1e3,)),
        ("round trips", ("rtt-p50", "rtt-p99"), latency),
    ]


def run_rounds(
    paths: Sequence[TrafficPath],
    settings: RoundSettings,
    samples: Samples,
    progress: RunProgress,
    calls: Callable[[], None] | None = None,
) -> int:
    """Measure; `calls` is the part of a round that attaches pods. Returns the number of rounds.

    A measurement that fails leaves a None among the samples, and its error.
    """
    what = measures(settings)
    for path in paths:
        progress.tell(f"first packets over {path.name}")
        round_trips(path, 0.1, PING_INTERVAL)  # so that neighbours, FDB entries and flows exist
    progress.expect(settings.rounds * (len(what) * len(paths) + bool(calls)))
    began = progress.seconds
    for number in range(settings.rounds):
        length = (progress.seconds - began) / number if number else 0.0
        if number and progress.seconds + length > settings.limit:
            progress.tell(f"{number} rounds are done; another would end after the time limit")
            return number
        label = f"round {number + 1} of {settings.rounds}:"
        for title, figures, function in what:
            for path in paths if number % 2 == 0 else reversed(paths):
                progress.step(f"{label} {title}, {path.name}")
                for figure, value in zip(
                    figures, _measured(function, path, len(figures), samples), strict=True
                ):
                    samples.add(figure, path.name, value)
        if calls is not None:
            progress.step(f"{label} CNI ADD and DEL")
            calls()
    return settings.rounds


def _measured(
    function: Callable[[TrafficPath], tuple[float, ...]],
    path: TrafficPath,
    count: int,
    samples: Samples,
) -> tuple[float | None, ...]:
    for attempt in range(ATTEMPTS):
        try:
            return function(path)
        except MeasureError as error:
            if attempt + 1 == ATTEMPTS:
                samples.errors.append(str(error))
    return (None,) * count
