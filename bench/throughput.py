# SPDX-License-Identifier: Apache-2.0
"""Pod-to-pod throughput over each kernel backend, as a ratio to the raw underlay.

    python -m bench.throughput [--seconds 5] [--json FILE]

One two-host lab per backend, all up at the same time; iperf3 runs alternate between the
paths, so that a busy moment of the machine slows all of them. Each figure is the median of the
rounds. TCP with 1 and 4 streams; UDP as fast as iperf3
sends; what arrives counts.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from bench.traffic import TrafficPath, gigabits, in_netns, iperf_server
from lab import hosts
from lab.cluster import Lab
from lab.spec import LabSpec

UNDERLAY = "raw underlay"
BACKENDS = {"host-gw": {"Type": "host-gw"}, "vxlan": {"Type": "vxlan"}}
TRAFFIC = {
    "TCP 1 stream": ("-P", "1"),
    "TCP 4 streams": ("-P", "4"),
    "UDP": ("-u", "-b", "0"),
}


def underlay_path(lab: Lab) -> TrafficPath:
    """From the first host to the second one."""
    client, server = (in_netns(lab.names.host(number)) for number in (1, 2))
    return TrafficPath(UNDERLAY, client, server, hosts.host_ipv4(2))


def pod_path(name: str, lab: Lab) -> TrafficPath:
    """From the first pod to the second one."""
    sender, receiver = lab.pods
    client, server = in_netns(sender.netns), in_netns(receiver.netns)
    return TrafficPath(name, client, server, receiver.addresses[0])


@contextlib.contextmanager
def paths(
    directory: Path,
    backends: Mapping[str, Mapping[str, Any]],
    *,
    name: str = "bench",
    underlay: bool = True,
) -> Iterator[list[TrafficPath]]:
    """Bring up one lab per backend; yields the paths to compare, the underlay first."""
    with contextlib.ExitStack() as stack:
        found: list[TrafficPath] = []
        for number, (label, backend) in enumerate(backends.items()):
            lab = Lab(LabSpec(f"{name}{number}", 2, 1, backend), directory)
            stack.callback(lab.down)
            progress(f"setting up {label}")
            lab.up()
            if not found and underlay:
                found.append(underlay_path(lab))
            found.append(pod_path(label, lab))
        for path in found:
            stack.enter_context(iperf_server(path.server))
        yield found


@click.command()
@click.option("--seconds", default=3, show_default=True, help="Per iperf3 run.")
@click.option("--rounds", default=3, show_default=True, help="Runs per figure; the median counts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(seconds: int, rounds: int, json_file: Path | None) -> None:
    """Measure and print."""
    require("ip", "iperf3", "nsenter")
    report = Report("pod-to-pod throughput, Gbit/s", baseline=UNDERLAY)
    with tempfile.TemporaryDirectory() as directory, paths(Path(directory), BACKENDS) as found:
        for label, traffic in TRAFFIC.items():
            figures: dict[str, list[float]] = {path.name: [] for path in found}
            for number in range(rounds):
                for path in found:
                    progress(f"{label}, round {number + 1} of {rounds}: {path.name}")
                    figures[path.name].append(gigabits(path, seconds, traffic))
            for name, values in figures.items():
                report.add(name, label, statistics.median(values), "Gbit/s")
    report.show(json_file)


if __name__ == "__main__":
    run(main)
