# SPDX-License-Identifier: Apache-2.0
"""One run on this machine: bring everything up, measure, take it down."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base import paths as default_paths
from base.version import commit
from bench.prerequisites import require
from bench.suite import machine
from bench.suite.calls import attaching
from bench.suite.document import RunResult, described
from bench.suite.figures import Samples
from bench.suite.paths import running
from bench.suite.progress import RunProgress
from bench.suite.rounds import RoundSettings, run_rounds
from bench.suite.subjects import ATTACHING, chosen, split
from lab.etcd_server import find_etcd
from lab.files import LabFiles
from lab.hosts import LabError, Names

NEEDED = ("iperf3", "ip", "nsenter", "ping", "setpriv", "sysctl")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What to measure and how long."""

    rounds: RoundSettings
    calls: int
    """ADDs and DELs of each plugin per round."""
    only: tuple[str, ...]
    """Backends; empty: all."""
    name: str
    """Begins the names of labs."""
    judged: bool
    """Whether the figures are good enough to be compared with the goals."""
    directory: Path = Path(default_paths.LAB_DIR)
    """Of the labs' files."""


def measured(settings: RunSettings) -> RunResult:
    """Measure on this machine.

    Raises LabError, MeasureError, ClickException, each with one line.
    """
    require(*NEEDED)
    find_etcd()
    wanted, left_out = split(chosen(settings.only))
    plugins, without = split(ATTACHING)
    samples, started, here = Samples(), time.time(), machine.machine()
    about = described([*wanted, *plugins])
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(RunProgress())
        stack.enter_context(_alone(settings))
        # a short path: Unix sockets of Open vSwitch are below it
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fmb-")))
        place = (settings.name, settings.directory, files)
        progress.tell(f"{len(wanted)} ways to carry packets, {len(plugins)} to attach pods")
        paths = stack.enter_context(running(wanted, *place, progress.tell))
        calls = stack.enter_context(attaching(plugins, settings.calls, samples))
        rounds = run_rounds(paths, settings.rounds, samples, progress, calls)
    return RunResult(
        described_run(started, here, arguments(settings), rounds),
        about,
        samples,
        {**left_out, **without},
        settings.judged,
    )


def arguments(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as the JSON has them."""
    return {
        **asdict(settings.rounds),
        "calls": settings.calls,
        "only": list(settings.only),
        "between": "",
    }


def described_run(
    started: float, here: dict[str, Any], given: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Return what the JSON says of a run besides its figures; `here`: the machine at its start."""
    return {
        "version": machine.flatmesh_version(),
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started),
        "arguments": given,
        "machine": here,
        "programs": machine.programs(),
        "rounds": rounds,
    }


@contextlib.contextmanager
def _alone(settings: RunSettings) -> Iterator[None]:
    """Refuse a second run of the same name on this machine. Raises LabError."""
    Names(f"{settings.name}00")
    files = LabFiles(settings.directory / settings.name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock())
        except LabError:
            raise LabError(
                "another `flatmesh bench` runs on this machine, and both would measure each other; "
                "wait for its end"
            ) from None
        try:
            yield
        finally:
            files.remove_lock()
