# SPDX-License-Identifier: Apache-2.0
"""One real daemon among many leases in a real etcd.

    python -m bench.scale [--leases 100 --leases 1000 --leases 5000] [--json FILE]

A lab of one host; the other hosts are leases only. For each size:

    start               from the daemon's start to all peers in the kernel
    programming         of that, the dump and the changes themselves
    one lease           from before its write in etcd to its route in the kernel, p50 and p99
    applying            of that, the daemon's own part, p99
    500 join, 500 leave as bursts, until the last route is in, or gone
    idle                CPU of 20 quiet seconds, in percent of one processor
    memory              resident, after all that
    10,000 changes      growth of resident memory over 10,000 more changes (once)

The baseline is `ip -batch` and `bridge -batch` writing the same entries, in the same run.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from bench.lease_writer import subnet
from bench.netlink_batch import BASELINE, measure_baseline
from bench.prerequisites import progress, require, run
from bench.report import Report
from bench.wait import wait_until
from hostnet.kernel import Kernel
from lab import processes
from lab.cluster import Lab
from lab.processes import NETNS_DIR
from lab.spec import LabSpec

SUBJECT = "flatmeshd"
SINGLES = 100  # changes of one lease
BURST = 500
IDLE = 20.0  # seconds
SOAK = 10_000  # changes
TICK = os.sysconf("SC_CLK_TCK")
APPLIED = re.compile(r"(overlay|data plane): made \d+ changes in ([\d.]+) ms \(")


@dataclass(slots=True)
class MeasuredDaemon:
    """The daemon under test, the writer of leases, and a view of its host's kernel."""

    lab: Lab
    writer: subprocess.Popen[str]
    kernel: Kernel

    def write(self, verb: str, first: int, count: int) -> float:
        """Change leases; returns the moment before the first write."""
        assert self.writer.stdin is not None  # noqa: S101 - pipes were asked for
        assert self.writer.stdout is not None  # noqa: S101
        self.writer.stdin.write(f"{verb} {first} {count}\n")
        self.writer.stdin.flush()
        return float(self.writer.stdout.readline())

    def routes(self) -> int:
        """How many peers' routes are in the kernel."""
        self.kernel.links()
        return sum(route.link == "flannel.1" for route in self.kernel.routes(2))

    def wait_for(self, count: int) -> None:
        """Wait until so many routes are there."""
        wait_until(lambda: self.routes() == count, f"{count} routes")

    @property
    def pid(self) -> int:
        """The daemon's pid. Raises ClickException when it died."""
        pid = self.lab.daemon_pid(1)
        if pid is None:
            raise click.ClickException(f"the daemon died: {self.lab.log(1)[-500:]}")
        return pid

    def cpu(self) -> float:
        """CPU seconds that the daemon took so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICK

    def resident(self) -> float:
        """The daemon's resident memory, MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def restart(self) -> tuple[float, float]:
        """Start the daemon where no peer is in the kernel; seconds in all, and of programming."""
        self.lab.stop_daemon(1)
        subprocess.run(
            ["ip", "-n", self.lab.names.host(1), "link", "del", "flannel.1"], check=False
        )
        log = self.lab.host_dir(1) / "flatmeshd.log"
        log.write_text("")
        started = time.perf_counter()
        self.lab.start_daemon(1)
        self.lab.wait_ready(1)
        elapsed = time.perf_counter() - started
        return elapsed, sum(applied(log.read_text(), "overlay")) / 1000


@contextmanager
def subject(directory: Path) -> Iterator[MeasuredDaemon]:
    """A lab of one host with a lease writer beside its etcd."""
    lab = Lab(LabSpec("benchscale", 1, 0, network="10.0.0.0/8"), directory)
    try:
        lab.up()
        writer = subprocess.Popen(
            [
                *processes.enter(lab.names.underlay),
                *(sys.executable, "-m", "bench.lease_writer", lab.endpoint),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer, Kernel(NETNS_DIR / lab.names.host(1)) as kernel:
            yield MeasuredDaemon(lab, writer, kernel)
            writer.kill()
    finally:
        lab.down()


def singles(daemon: MeasuredDaemon, first: int) -> list[float]:
    """Milliseconds from before each of many single writes to the route in `ip monitor`."""
    netns = daemon.lab.names.host(1)
    figures = []
    with subprocess.Popen(
        ["ip", "-n", netns, "-o", "monitor", "route"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        assert monitor.stdout is not None  # noqa: S101 - a pipe was asked for
        time.sleep(0.2)  # ip monitor does not tell when it is ready
        for number in range(first, first + SINGLES):
            started = daemon.write("put", number, 1)
            for line in monitor.stdout:
                if subnet(number) in line:
                    break
            figures.append((time.time() - started) * 1000)
        monitor.kill()
    return figures


def applied(log: str, controller: str) -> list[float]:
    """The milliseconds of each reconcile of a controller that changed something, as logged."""
    return [float(took) for name, took in APPLIED.findall(log) if name == controller]


def percentile(values: list[float], which: int) -> float:
    """The smallest value that `which` percent don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * which // 100)]


def measure(daemon: MeasuredDaemon, count: int, report: Report, *, soak: bool) -> None:
    """All figures with `count` leases present."""
    label = f"{count} leases: "
    baseline: dict[tuple[str, str], list[float]] = {}
    for _ in range(3):
        measure_baseline(count, baseline)
    batch = statistics.median(baseline["program", BASELINE]) / 1000
    daemon.write("put", 0, count)
    start, programming = daemon.restart()
    daemon.wait_for(count)
    report.add(BASELINE, f"{label}programming", batch, "s")
    report.add(SUBJECT, f"{label}programming", programming, "s")
    report.add(SUBJECT, f"{label}start", start, "s")
    before_singles = len(daemon.lab.log(1))
    figures = singles(daemon, count)
    own = applied(daemon.lab.log(1)[before_singles:], "overlay")
    report.add(SUBJECT, f"{label}one lease, p50", percentile(figures, 50), "ms")
    report.add(SUBJECT, f"{label}one lease, p99", percentile(figures, 99), "ms")
    report.add(SUBJECT, f"{label}applying, p99", percentile(own, 99), "ms")
    daemon.write("delete", count, SINGLES)
    daemon.wait_for(count)
    for verb, name, there in (
        ("put", f"{BURST} join", count + BURST),
        ("delete", f"{BURST} leave", count),
    ):
        started = daemon.write(verb, count, BURST)
        daemon.wait_for(there)
        report.add(SUBJECT, label + name, time.time() - started, "s")
    before = daemon.cpu()
    time.sleep(IDLE)
    report.add(SUBJECT, f"{label}idle", (daemon.cpu() - before) / IDLE * 100, "% CPU")
    report.add(SUBJECT, f"{label}memory", daemon.resident(), "MiB")
    if soak:
        resident = daemon.resident()
        for _ in range(SOAK // (2 * BURST)):
            daemon.write("put", count, BURST)
            daemon.write("delete", count, BURST)
        daemon.wait_for(count)
        report.add(SUBJECT, f"{label}{SOAK} changes, growth", daemon.resident() - resident, "MiB")
    report.add(SUBJECT, f"{label}CPU in all", daemon.cpu(), "s")
    daemon.write("delete", 0, count)
    daemon.wait_for(0)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--leases", type=int, multiple=True, default=(100, 1000, 5000), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(leases: tuple[int, ...], json_file: Path | None) -> None:
    """Measure and report."""
    require("ip", "nsenter")
    report = Report("one daemon among many leases", BASELINE)
    with tempfile.TemporaryDirectory() as directory, subject(Path(directory)) as daemon:
        for count in leases:
            progress(f"{count} leases")
            measure(daemon, count, report, soak=count == max(leases))
    report.show(json_file)


if __name__ == "__main__":
    run(main)
