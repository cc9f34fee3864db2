# SPDX-License-Identifier: Apache-2.0
"""The udp backend beside the others, and beside itself moving packet by packet.

    python -m bench.udp [--seconds 2] [--rounds 3] [--only NAME]... [--json FILE]

One two-host lab per backend, all up at the same time; runs alternate between the paths, so that
a busy moment of the machine slows all of them. Each figure is the median of the rounds:

    TCP 1, 4, 16 streams    received Gbit/s, by iperf3
    CPU per GiB             seconds that all processors were busy, per GiB of the one stream
    small packets           datagrams of 64 bytes received a second, from 8 sockets that send all
                            they can (bench/small_packets.py)
    latency                 ping, median and 99th percentile; idle, and beside 4 TCP streams

"udp, single packets" is the same extension working as flanneld does: one read() and one sendto() a
packet, one thread, nothing offloaded. Everything runs on one machine: senders, receivers and
both hosts' data planes share its processors.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from bench.throughput import UNDERLAY, paths
from bench.traffic import TrafficPath, gigabits, round_trips, small_packets

SINGLE, UDP, VXLAN = "udp, single packets", "udp", "vxlan"
BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "host-gw": {"Type": "host-gw"},
    VXLAN: {"Type": "vxlan"},
    UDP: {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
    SINGLE: {"Type": "udp", "SinglePacket": True},
}
LOAD_STREAMS = 4  # TCP streams that run while latency is measured
LOAD_MARGIN = 1  # seconds: the load runs so much longer than the measurement, at either end
GOALS = (
    ("TCP, 1 stream", SINGLE, 12.0),
    ("TCP, 1 stream", VXLAN, 0.55),
    ("small packets", SINGLE, 2.5),
)

PER_SECOND = 100  # USER_HZ: what /proc/stat counts in


def busy_seconds() -> float:
    """Seconds that the processors together have been busy since boot (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / PER_SECOND


def round_trips_under_load(path: TrafficPath, seconds: int) -> list[float]:
    """The same while TCP streams send as fast as they can."""
    streams = ("-P", str(LOAD_STREAMS))
    load = threading.Thread(target=gigabits, args=(path, seconds + 2 * LOAD_MARGIN, streams))
    load.start()
    try:
        threading.Event().wait(LOAD_MARGIN)
        return round_trips(path, seconds)
    finally:
        load.join()


@dataclass(slots=True)
class Figures:
    """The values of all rounds, per path and figure, in the order measured."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, path: TrafficPath, what: str, unit: str, value: float) -> None:
        """Add one round's value."""
        self.units[what] = unit
        self.values.setdefault((what, path.name), []).append(value)

    def tcp(self, path: TrafficPath, streams: int, seconds: int) -> None:
        """Measure throughput, and for one stream the CPU time it takes."""
        before = busy_seconds()
        rate = gigabits(path, seconds, ("-P", str(streams)))
        busy = busy_seconds() - before
        self.add(path, f"TCP, {streams} stream{'s' * (streams > 1)}", "Gbit/s", rate)
        if streams == 1:
            gib = rate * 1e9 * seconds / 8 / 2**30
            self.add(path, "CPU per GiB", "s", busy / gib)

    def latency(self, path: TrafficPath, seconds: int) -> None:
        """Measure round trips, idle and under load."""
        for how, measure in (("idle", round_trips), ("under load", round_trips_under_load)):
            times = measure(path, seconds)
            self.add(path, f"latency {how}, median", "ms", statistics.median(times))
            self.add(path, f"latency {how}, 99 %", "ms", times[int(len(times) * 0.99)])

    def report(self, title: str, baseline: str) -> Report:
        """Return the medians as a report."""
        report = Report(title, baseline)
        for what, unit in self.units.items():
            for (measured, name), values in self.values.items():
                if measured == what:
                    report.add(name, what, statistics.median(values), unit)
        return report


@click.command()
@click.option("--seconds", default=2, show_default=True, help="Per run.")
@click.option("--rounds", default=3, show_default=True, help="Runs per figure; the median counts.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([UNDERLAY, *BACKENDS]),
    help="Leave out the others; may be repeated.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(seconds: int, rounds: int, only: tuple[str, ...], json_file: Path | None) -> None:
    """Measure and print."""
    require("ip", "iperf3", "nsenter", "ping")
    figures = Figures()
    measures: list[Callable[[TrafficPath], None]] = [
        lambda path: figures.tcp(path, 1, seconds),
        lambda path: figures.tcp(path, 4, seconds),
        lambda path: figures.tcp(path, 16, seconds),
        lambda path: figures.add(path, "small packets", "1/s", small_packets(path, seconds)),
        lambda path: figures.latency(path, seconds),
    ]
    chosen = {name: one for name, one in BACKENDS.items() if not only or name in only}
    underlay = not only or UNDERLAY in only
    with (
        tempfile.TemporaryDirectory() as directory,
        paths(Path(directory), chosen, name="benchudp", underlay=underlay) as found,
    ):
        for number in range(rounds):
            for step, measure in enumerate(measures, 1):
                for path in found:
                    where = f"measurement {step} of {len(measures)}: {path.name}"
                    progress(f"round {number + 1} of {rounds}, {where}")
                    measure(path)
    figures.report("udp backend", SINGLE).show(json_file)
    for what, baseline, goal in GOALS:
        with contextlib.suppress(KeyError):  # not measured
            ratio = figures.report("", baseline).ratio(UDP, what)
            print(f"{what}: {ratio:.2f} times {baseline}; the goal is {goal:.2f}")


if __name__ == "__main__":
    run(main)
