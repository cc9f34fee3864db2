# SPDX-License-Identifier: Apache-2.0
"""How long a runtime waits for a pod's network, beside the reference plugins.

    python -m bench.cni_latency [--pods 1,100,500] [--samples 30] [--json FILE]

Two hosts as network namespaces, each with the same number of pods attached: on one Debian's
`bridge` with `host-local`, on the other flatmesh, once through the daemon's socket and once
without a daemon. The subjects are called alternately, so that a busy moment of the machine
slows all of them. A call is timed from spawning the executable to its end; `50 at once` is the
pods per second when a runtime starts fifty calls and waits for all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import cni.install
from bench.prerequisites import (
    REFERENCE_DIR,
    progress,
    require,
    require_reference_plugins,
    run,
)
from bench.report import Report
from bench.traffic import MeasureError
from hostnet import netns

MEMORY = "/dev/shm"  # a tmpfs on every Linux system
REFERENCE, DAEMON, NO_DAEMON = "bridge + host-local", "flatmesh", "flatmesh, no daemon"
WIDE = 50  # calls at once
NO_DAEMON_SHARE = 3  # one sample without a daemon for so many with one
COMMANDS = ("ADD", "CHECK", "DEL")
SUBNET_ENV = """FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.64.1/19
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


@dataclass
class BenchHost:
    """A host: a network namespace with pods, and the plugin that attaches them."""

    name: str
    directory: Path
    program: Path
    conf: Mapping[str, Any]
    fd: int = -1
    """The namespace, open."""
    pods: list[str] = field(default_factory=list)

    def variables(self, command: str, pod: str, *, daemon: bool) -> dict[str, str]:
        """The environment of a call."""
        found = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.program.parent}:{REFERENCE_DIR}",
            "FLATMESH_RUN_DIR": str(self.directory),
            "FLATMESH_STATE_DIR": str(self.directory),
            "FLATMESH_SUBNET_FILE": str(self.directory / "subnet.env"),
        }
        if not daemon:
            found["FLATMESH_SOCKET"] = str(self.directory / "none")
        return found

    def add_pods(self, count: int) -> None:
        """Make container namespaces."""
        for _ in range(count):
            name = f"{self.name}-{secrets.token_hex(4)}"
            netns.create(name, loopback=False)
            self.pods.append(name)


@dataclass
class RunningCall:
    """One running executable."""

    host: BenchHost
    command: str
    pod: str
    started: float
    pid: int
    stdin: int
    stdout: int

    def wait(self) -> float:
        """Wait for the end; returns the milliseconds since the start.

        The result of an ADD is kept for CHECK. Raises MeasureError when the plugin refused.
        """
        _, status = os.waitpid(self.pid, 0)
        took = (time.perf_counter() - self.started) * 1e3
        os.lseek(self.stdout, 0, os.SEEK_SET)
        output = os.read(self.stdout, 1 << 20)
        os.close(self.stdin)
        os.close(self.stdout)
        if status:
            raise MeasureError(f"{self.host.program} {self.command}: {output.decode()}")
        if self.command == "ADD":
            (self.host.directory / self.pod).write_bytes(output)
        return took


def start(host: BenchHost, command: str, pod: str, *, daemon: bool = True) -> RunningCall:
    """Call the plugin as cheaply as a runtime can: no shell, no pipes to copy."""
    conf = dict(host.conf)
    if command == "CHECK":
        conf["prevResult"] = json.loads((host.directory / pod).read_bytes())
    stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
    os.write(stdin, json.dumps(conf).encode())
    os.lseek(stdin, 0, os.SEEK_SET)
    environment = host.variables(command, pod, daemon=daemon)
    files = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    with netns.own_netns() as own, netns.entered(host.fd, own):
        started = time.perf_counter()
        pid = os.posix_spawn(host.program, [str(host.program)], environment, file_actions=files)
    return RunningCall(host, command, pod, started, pid, stdin, stdout)


@contextlib.contextmanager
def hosts() -> Iterator[tuple[BenchHost, BenchHost]]:
    """The reference's host and ours, the daemon's CNI server running on ours."""
    with (
        # as /run is on a host; neither subject waits for a disk, so no disk shall be measured
        tempfile.TemporaryDirectory(prefix="fm-", dir=MEMORY) as text,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(text)
        programs = directory / "bin"
        cni.install.install(programs, sys.executable)
        made = []
        for kind, program, conf in (
            ("ref", REFERENCE_DIR / "bridge", reference_conf(directory / "ref")),
            ("own", programs / "flatmesh", {"name": "pods", "type": "flatmesh"}),
        ):
            host = BenchHost(
                f"bench-{kind}-{secrets.token_hex(2)}",
                directory / kind,
                program,
                {"cniVersion": "1.0.0", **conf},
            )
            host.directory.mkdir()
            (host.directory / "subnet.env").write_text(SUBNET_ENV)
            stack.callback(remove, host)
            netns.create(host.name)
            host.fd = netns.open_netns(host.name)
            made.append(host)
        reference, own = made
        stack.enter_context(served(own))
        yield reference, own


def reference_conf(directory: Path) -> dict[str, Any]:
    """Return the reference plugins' config for the same subnet, MTU and route."""
    return {
        "name": "reference",
        "type": "bridge",
        "bridge": "kbr0",
        "isDefaultGateway": True,
        "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.5.64.0/19"}]],
            "routes": [{"dst": "10.5.0.0/16", "gw": "10.5.64.1"}],
            "dataDir": str(directory / "host-local"),
        },
    }


@contextlib.contextmanager
def served(host: BenchHost) -> Iterator[None]:
    """Run the CNI half of the daemon in the host's namespace."""
    with netns.own_netns() as own, netns.entered(host.fd, own):
        server = subprocess.Popen(
            [sys.executable, "-I", "-m", "cni.socket.server"],
            env=host.variables("", "", daemon=True),
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise MeasureError("the CNI server does not start")
        yield
    finally:
        server.terminate()
        server.communicate(timeout=60)


def remove(host: BenchHost) -> None:
    """Remove a host's namespaces."""
    for pod in host.pods:
        netns.remove(pod)
    if host.fd >= 0:
        os.close(host.fd)
    netns.remove(host.name)


def fill(host: BenchHost, present: int) -> None:
    """Attach pods until `present` of them are attached."""
    missing = present - len(host.pods)
    first = len(host.pods)
    host.add_pods(max(0, missing))
    for pod in host.pods[first:]:
        start(host, "ADD", pod).wait()


def one_by_one(
    reference: BenchHost, own: BenchHost, samples: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by subject and command; the subjects are called alternately."""
    subjects = {REFERENCE: (reference, True), DAEMON: (own, True), NO_DAEMON: (own, False)}
    times: dict[str, dict[str, list[float]]] = {s: {c: [] for c in COMMANDS} for s in subjects}
    for number in range(samples):
        for subject, (host, daemon) in subjects.items():
            if subject == NO_DAEMON and number % NO_DAEMON_SHARE:
                continue
            for command in COMMANDS:
                took = start(host, command, host.pods[-1], daemon=daemon).wait()
                times[subject][command].append(took)
    return times


def at_once(host: BenchHost, pods: list[str], command: str, *, daemon: bool) -> float:
    """Pods per second."""
    began = time.perf_counter()
    calls = [start(host, command, pod, daemon=daemon) for pod in pods]
    for call in calls:
        call.wait()
    return len(pods) / (time.perf_counter() - began)


def measure(
    report: Report, present: int, samples: int, hosts_: tuple[BenchHost, BenchHost]
) -> None:
    """All figures with `present` pods attached on each host."""
    reference, own = hosts_
    for host in hosts_:
        fill(host, present)
        host.add_pods(1)  # the one that is attached and detached for each sample
    times = one_by_one(reference, own, samples)
    for subject, commands in times.items():
        for command, values in commands.items():
            values.sort()
            for what, value in (
                ("min", values[0]),
                ("median", statistics.median(values)),
                ("p95", values[int(len(values) * 0.95)]),
            ):
                report.add(subject, f"{command} {what}, {present} pods", value, "ms")
    wide: dict[tuple[str, str], list[float]] = {}
    crowd = {}
    for host in hosts_:
        netns.remove(host.pods.pop())
        first = len(host.pods)
        host.add_pods(WIDE)
        crowd[host.name] = host.pods[first:]
    for _ in range(3):
        for subject, host, daemon in ((REFERENCE, reference, True), (DAEMON, own, True)):
            for command in ("ADD", "DEL"):
                speed = at_once(host, crowd[host.name], command, daemon=daemon)
                wide.setdefault((subject, command), []).append(speed)
    for (subject, command), speeds in wide.items():
        what = f"{command} {WIDE} at once, {present} pods"
        report.add(subject, what, statistics.median(speeds), "pods/s")
    for host in hosts_:
        for pod in crowd[host.name]:
            netns.remove(pod)
            host.pods.remove(pod)


@click.command()
@click.option("--pods", default="1,100,500", show_default=True, help="Pods present, each in turn.")
@click.option("--samples", default=30, show_default=True, help="Calls of each kind.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(pods: str, samples: int, json_file: Path | None) -> None:
    """Measure and print."""
    require("nsenter")
    require_reference_plugins()
    report = Report("CNI latency", baseline=REFERENCE)
    with hosts() as both:
        for present in sorted(int(n) for n in pods.split(",")):
            progress(f"{present} pods present")
            measure(report, present, samples, both)
    report.show(json_file)


if __name__ == "__main__":
    run(main)
