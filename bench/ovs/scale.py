# SPDX-License-Identifier: Apache-2.0
"""One real daemon with the ovs backend among many leases in a real etcd."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bench.lease_writer import subnet
from bench.ovs.leases import lease
from bench.ovs.recipe import HAND_MADE
from bench.ovs.traffic import backend, running_lab
from bench.prerequisites import progress
from bench.report import Report
from bench.scale import TICK, applied
from bench.wait import wait_until
from lab import ovs_server, processes
from lab.cluster import Lab
from lab.spec import LabSpec

DAEMON = "flatmeshd"
SINGLES = 10  # leases one by one
QUIET_INTERVAL = 1.0  # seconds before each single lease
AFTER_START_INTERVAL = 5.0  # seconds
FAR = 8192  # made-up hosts are counted from here when our own subnet is among the first ones
OURS = "table=50,ip,nw_dst=10.64.0.0/10"  # what lease_writer.subnet is in, in table `remote`


@dataclass(slots=True)
class MeasuredDaemon:
    """The daemon under test, its lab and the writer of leases."""

    lab: Lab
    writer: subprocess.Popen[str]
    first: int
    """Number of the first made-up host."""

    def write(self, first: int, count: int) -> float:
        """Write leases; returns the moment before the first write."""
        assert self.writer.stdin is not None  # noqa: S101 - pipes were asked for
        assert self.writer.stdout is not None  # noqa: S101
        self.writer.stdin.write(f"{self.first + first} {count}\n")
        self.writer.stdin.flush()
        return float(self.writer.stdout.readline())

    def ofctl(self, *words: str, text: str | None = None) -> str:
        """Call ovs-ofctl on the host; nothing while there is no bridge."""
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow14", "--no-names", *words],
            env=ovs_server.environment(self.lab.ovs(1).directory),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def flows(self, match: str = OURS) -> int:
        """How many flows of obr0 match; the switch counts them, which is fast."""
        found = re.search(r"flow_count=(\d+)", self.ofctl("dump-aggregate", "obr0", match))
        return int(found[1]) if found else 0

    def cold_start(self, count: int) -> float:
        """Start on a host without a bridge; seconds to the flow of each of `count` peers."""
        self.lab.stop_daemon(1)
        names = ("obr0", "obr0-phy")
        self.lab.ovs(1).vsctl(*(w for n in names for w in ("--", "--if-exists", "del-br", n)))
        (self.lab.host_dir(1) / "flatmeshd.log").write_text("")
        started = time.perf_counter()
        self.lab.start_daemon(1)
        wait_until(lambda: self.flows() == count, f"flows of {count} peers")
        elapsed = time.perf_counter() - started
        self.lab.wait_ready(1)
        return elapsed

    def one_more(self, number: int) -> float:
        """Milliseconds from before a lease's write to its flow."""
        match = f"table=50,ip,nw_dst={subnet(self.first + number)}/24"
        started = self.write(number, 1)
        deadline = time.monotonic() + 30
        while not self.flows(match):
            if time.monotonic() > deadline:
                raise click.ClickException(f"not within 30 s: a flow {match}")
        return (time.time() - started) * 1000

    def restart(self, count: int) -> float:
        """Kill ovs-vswitchd and start it; seconds from its first answer to all flows."""
        server = self.lab.ovs(1)
        server.stop("ovs-vswitchd", grace=0)
        server.start_switch()
        started = time.perf_counter()
        wait_until(lambda: self.flows() == count, f"flows of {count} peers")
        return time.perf_counter() - started

    def cpu(self) -> float:
        """CPU seconds that the daemon took so far, without its children."""
        stat = Path(f"/proc/{self.lab.daemon_pid(1)}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICK

    def in_daemon(self, offset: int) -> float | None:
        """Milliseconds of one change, median of those logged since; None: it logged none."""
        found = applied(self.lab.log(1)[offset:], "data plane")
        return statistics.median(found) if found else None

    def by_hand(self, flows: list[str], last: list[str]) -> tuple[float, float]:
        """Seconds of ovs-ofctl writing all flows to a new bridge, and then the last peer's."""
        server = self.lab.ovs(1)
        try:
            server.vsctl("add-br", "hand", "--", "set", "bridge", "hand", "datapath_type=netdev")
            whole = self._timed_add([flow for flow in flows if flow not in last])
            one = statistics.median(self._timed_add(last) for _ in range(5))
            there = len(self.ofctl("dump-flows", "hand", "--no-stats").splitlines())
            if there < len(flows):
                raise click.ClickException(f"ovs-ofctl wrote {there} of {len(flows)} flows")
            return whole, one
        finally:
            server.vsctl("--if-exists", "del-br", "hand")

    def _timed_add(self, flows: list[str]) -> float:
        started = time.perf_counter()
        self.ofctl("--bundle", "add-flows", "hand", "-", text="\n".join(flows) + "\n")
        return time.perf_counter() - started


@contextlib.contextmanager
def subject(directory: Path) -> Iterator[MeasuredDaemon]:
    """A lab of one host with a lease writer beside its etcd."""
    spec = LabSpec("benchovsscale", 1, 0, backend("vxlan", "flow"), network="10.0.0.0/8")
    with running_lab(spec, directory) as lab:
        inside = processes.enter(lab.names.underlay)
        command = (sys.executable, "-m", "bench.ovs.leases", lab.endpoint)
        with subprocess.Popen(
            [*inside, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            own = int(lab.subnet(1).split(".")[1])
            try:
                yield MeasuredDaemon(lab, writer, FAR if 64 <= own < 96 else 0)
            finally:
                writer.kill()


def measure(daemon: MeasuredDaemon, there: int, count: int, report: Report) -> None:
    """Measure with `count` leases present, of which `there` were written before."""
    label = f"{count} leases: "
    progress(f"{count} leases")
    daemon.write(there, count - there)
    cold = daemon.cold_start(count)
    before = daemon.cpu()
    time.sleep(AFTER_START_INTERVAL)
    settling = daemon.cpu() - before
    singles = []
    logged = len(daemon.lab.log(1))
    for number in range(SINGLES):
        time.sleep(QUIET_INTERVAL)
        singles.append(daemon.one_more(count + number))
    crowded = [daemon.one_more(count + SINGLES + number) for number in range(SINGLES)]
    inside = daemon.in_daemon(logged)
    restart = daemon.restart(count + 2 * SINGLES)
    daemon.lab.stop_daemon(1)  # it would remove the flows written by hand
    flows = daemon.ofctl("dump-flows", "obr0", "--no-stats").splitlines()
    number = daemon.first + count + 2 * SINGLES - 1
    marks = (f"{subnet(number)}/", json.loads(lease(number))["PublicIP"] + ",")
    whole, one = daemon.by_hand(flows, [f for f in flows if any(mark in f for mark in marks)])
    report.add(DAEMON, f"{label}flows", len(flows), "")
    report.add(HAND_MADE, f"{label}cold", whole, "s")
    report.add(DAEMON, f"{label}cold", cold, "s")
    report.add(HAND_MADE, f"{label}one more lease", one * 1000, "ms")
    report.add(DAEMON, f"{label}one more lease", statistics.median(singles), "ms")
    report.add(DAEMON, f"{label}back to back", statistics.median(crowded), "ms")
    report.add(DAEMON, f"{label}settling", settling, "s CPU")
    report.add(DAEMON, f"{label}restart", restart, "s")
    if inside is not None:
        report.add(DAEMON, f"{label}in the daemon", inside, "ms")


def scale(leases: tuple[int, ...], directory: Path, report: Report) -> None:
    """Measure one daemon with each number of leases, the smallest first."""
    with subject(directory) as daemon:
        there = 0
        for count in sorted(leases):
            measure(daemon, there, count, report)
            there = count + 2 * SINGLES
