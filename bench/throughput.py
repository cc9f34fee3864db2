"""Pod-to-pod throughput over each kernel backend, as a ratio to the raw underlay.

    python -m bench.throughput [--seconds 5] [--json FILE]

One two-host lab per backend, all up at the same time; iperf3 runs alternate between the
paths, so that a busy moment of the machine slows all of them. Each figure is the median of the
rounds. TCP with 1 and 4 streams; UDP as fast as iperf3
sends; what arrives counts.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.report import Report
from lab import hosts, processes
from lab.cluster import Lab
from lab.spec import LabSpec

UNDERLAY = "raw underlay"
BACKENDS = {"host-gw": {"Type": "host-gw"}, "vxlan": {"Type": "vxlan"}}
START_TIMEOUT = 5.0  # seconds for an iperf3 server to listen
TRAFFIC = {
    "TCP 1 stream": ("-P", "1"),
    "TCP 4 streams": ("-P", "4"),
    "UDP": ("-u", "-b", "0"),
}


@dataclass(frozen=True, slots=True)
class TrafficPath:
    """A way to measure: from a client's namespace to an address in a server's."""

    name: str
    client: str
    server: str
    address: str


@contextlib.contextmanager
def iperf_server(netns: str) -> Iterator[None]:
    """Run an iperf3 server in a namespace."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "iperf3.log"
        server = processes.spawn(["iperf3", "--server", "--forceflush"], netns, log)
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while "listening" not in log.read_text():
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError(f"iperf3 does not start: {log.read_text()}")
                time.sleep(0.02)
            yield
        finally:
            processes.stop([server.pid])


def gigabits(path: TrafficPath, seconds: int, traffic: tuple[str, ...]) -> float:
    """Received Gbit/s of one iperf3 run."""
    done = subprocess.run(
        [
            *processes.enter(path.client),
            *("iperf3", "--json", "--client", path.address, "--time", str(seconds)),
            *traffic,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RuntimeError(f"iperf3 over {path.name}: {answer['error']}")
    end = answer["end"]
    received = end.get("sum_received") or end["sum"]
    return float(received["bits_per_second"]) / 1e9


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
            lab.up()
            if not found and underlay:
                found.append(
                    TrafficPath(UNDERLAY, lab.names.host(1), lab.names.host(2), hosts.host_ipv4(2))
                )
            sender, receiver = lab.pods
            found.append(TrafficPath(label, sender.netns, receiver.netns, receiver.addresses[0]))
        for path in found:
            stack.enter_context(iperf_server(path.server))
        yield found


@click.command()
@click.option("--seconds", default=3, show_default=True, help="Per iperf3 run.")
@click.option("--rounds", default=3, show_default=True, help="Runs per figure; the median counts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(seconds: int, rounds: int, json_file: Path | None) -> None:
    """Measure and print."""
    report = Report("pod-to-pod throughput, Gbit/s", baseline=UNDERLAY)
    with tempfile.TemporaryDirectory() as directory, paths(Path(directory), BACKENDS) as found:
        for label, traffic in TRAFFIC.items():
            figures: dict[str, list[float]] = {path.name: [] for path in found}
            for _ in range(rounds):
                for path in found:
                    figures[path.name].append(gigabits(path, seconds, traffic))
            for name, values in figures.items():
                report.add(name, label, statistics.median(values), "Gbit/s")
    report.show(json_file)


if __name__ == "__main__":
    main()
