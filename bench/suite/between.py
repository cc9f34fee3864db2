# SPDX-License-Identifier: Apache-2.0
"""Measure between two real hosts that run flatmesh already.

On each host `flatmesh bench serve` is started by a remote shell, `ssh` unless told otherwise, and
held by its standard input; see there. The measuring programs are started by the same remote shell.
So nothing but ssh is needed, and nothing listens for commands.

Figures: host to host by the underlay, and from a temporary pod on the first host to one on the
second. ADD and DEL were timed on each host before.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, cast

from base.errors import FlatmeshError
from bench.suite.document import RunResult, described
from bench.suite.figures import Samples
from bench.suite.machine import machine
from bench.suite.progress import RunProgress
from bench.suite.rounds import RoundSettings, run_rounds
from bench.suite.run import described_run
from bench.suite.serve import EndReport
from bench.suite.subjects import OURS, RAW, UNDERLAY, Subject
from bench.traffic import TrafficEnd, TrafficPath

PODS = "pod to pod"
START_TIMEOUT = 90.0  # seconds for ssh to connect and the pod to be there
END_TIMEOUT = 30.0  # seconds for the pod to be removed
WORD = re.compile(r"[\w./:=,@%+-]+")
"""What a remote shell takes as it is: ssh joins words by spaces and lets a shell split them."""


class BetweenError(FlatmeshError):
    """A host can't take part; one line."""


@dataclass(frozen=True, slots=True)
class BetweenSettings:
    """Which hosts, how they are reached, and how long to measure."""

    hosts: tuple[str, str]
    """The sending one and the receiving one."""
    rounds: RoundSettings
    calls: int
    shell: str = "ssh"
    """The remote shell's command line; host and command are appended."""
    flatmesh: str = "flatmesh"
    """The command there."""
    options: tuple[str, ...] = ()
    """For `flatmesh bench serve`."""
    underlay: str = ""
    """The receiving host's address on the underlay; empty: that of its default route."""

    def remote(self, host: str, *command: str) -> tuple[str, ...]:
        """Return the command line that runs a command on a host. Raises BetweenError."""
        for word in (host, *command):
            if not WORD.fullmatch(word) or host.startswith("-"):
                raise BetweenError(f"{word!r} can't be passed to a remote shell as it is")
        return (*shlex.split(self.shell), host, *command)


def measured(settings: BetweenSettings) -> RunResult:
    """Measure. Raises BetweenError, MeasureError, OSError."""
    samples, started, here = Samples(), time.time(), machine()
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(RunProgress())
        ends, reports = [], []
        for number, host in enumerate(settings.hosts):
            progress.tell(f"a temporary pod on {host}")
            report = stack.enter_context(_served(settings, host, listen=number == 1))
            ends.append(report)
            reports.append({"host": host, **asdict(report)})
        rounds = run_rounds(_paths(settings, ends), settings.rounds, samples, progress)
        progress.tell("removing the pods")
    subjects = [Subject(RAW, UNDERLAY), Subject(PODS, OURS)]
    for host, report in zip(settings.hosts, ends, strict=True):
        subjects.append(Subject(f"on {host}", OURS))
        for figure, values in (("add", report.add), ("del", report.delete)):
            for value in values:
                samples.add(figure, f"on {host}", value)
    given = {
        **asdict(settings.rounds),
        "calls": settings.calls,
        "only": [],
        "between": " and ".join(settings.hosts),
    }
    about = described_run(started, here, given, rounds) | {"ends": reports}
    return RunResult(about, described(subjects), samples)


def _paths(settings: BetweenSettings, ends: Sequence[EndReport]) -> list[TrafficPath]:
    raw, pods = [], []
    for host, report in zip(settings.hosts, ends, strict=True):
        raw.append(TrafficEnd(settings.remote(host), report.python))
        enter = settings.remote(host, "nsenter", f"--net={report.netns}", "--")
        pods.append(TrafficEnd(enter, report.python))
    receiver = ends[1]
    return [
        TrafficPath(RAW, raw[0], raw[1], receiver.underlay),
        TrafficPath(PODS, pods[0], pods[1], receiver.address),
    ]


@contextlib.contextmanager
def _served(settings: BetweenSettings, host: str, *, listen: bool) -> Iterator[EndReport]:
    """Run `flatmesh bench serve` on a host. Raises BetweenError."""
    words = (*shlex.split(settings.flatmesh), "bench", "serve", f"--calls={settings.calls}")
    more = ["--listen"] if listen else []
    if listen and settings.underlay:
        more.append(f"--underlay={settings.underlay}")
    argv = settings.remote(host, *words, *settings.options, *more)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        output = cast("IO[str]", process.stdout)
        ready, _, _ = select.select([output], [], [], START_TIMEOUT)
        line = output.readline() if ready else ""
        try:
            report = EndReport(**json.loads(line))
        except (ValueError, TypeError):
            why = "its words are above" if line == "" and ready else "it gave no answer"
            raise BetweenError(
                f"{host}: `{' '.join(words)}` does not serve, {why}; flatmesh must run there, "
                "installed with deploy/install --lab, and the remote shell must be root's"
            ) from None
        yield report
    finally:
        with contextlib.suppress(OSError):
            cast("IO[str]", process.stdin).close()  # it removes its pod, and ends
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
