# SPDX-License-Identifier: Apache-2.0
"""`flatmesh-scheduler run` on one host of a lab, and what ends it with all of its tasks.

A task's processes live in namespaces of their own, not in the host's: they are found by the
variables that their supervisor has inherited.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from lab import processes
from lab.docker.image import BUSYBOX, image_archive
from lab.hosts import LabError
from lab.time_factor import scaled

IMAGE = "busybox"
"""Name of the image that each host has."""
MANAGERS = 3
"""Hosts that run a manager: the first ones."""
START_TIMEOUT = 60.0  # seconds
POLL_INTERVAL = 0.05  # seconds
CGROUPS = Path("/sys/fs/cgroup")
MARK = "FLATMESH_LAB_HOST_DIR"
"""Variable of everything that a host's scheduler starts."""


@dataclass(frozen=True, slots=True)
class SchedulerOfHost:
    """One host's manager and worker, running or not."""

    lab: str
    number: int
    netns: str
    directory: Path
    """Of the host."""
    argv: tuple[str, ...]
    """The command line up to `run`, and where etcd is."""
    address: str
    bin_dir: Path
    conflist: Mapping[str, Any]
    environment: Mapping[str, str]
    """For the CNI executables."""

    @property
    def socket(self) -> Path:
        """What `docker -H unix://...` names."""
        return self.directory / "docker.sock"

    @property
    def node(self) -> str:
        """Its node id."""
        return f"{self.lab}-h{self.number}"

    @property
    def is_manager(self) -> bool:
        """Whether it serves Docker's API and may lead."""
        return self.number <= MANAGERS

    def prepare(self) -> None:
        """Write the CNI config and the image. Raises LabError."""
        config = self.directory / "net.d"
        config.mkdir(exist_ok=True)
        (config / "10-flatmesh.conflist").write_text(json.dumps(self.conflist))
        image = self.directory / "scheduler/images" / IMAGE
        if BUSYBOX.exists() and not image.exists():
            image.mkdir(parents=True)
            with tarfile.open(fileobj=BytesIO(image_archive())) as archive:
                archive.extractall(image)  # noqa: S202 - we made it

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; `wait` tells when it serves."""
        manager = ["--manager"] if self.is_manager else []
        process = processes.spawn(
            [
                *self.argv,
                *manager,
                *("--worker", "--node-id", self.node, "--hostname", f"h{self.number}"),
                *("--address", self.address, "--socket", str(self.socket)),
                *("--state-dir", str(self.directory / "scheduler")),
                *("--cni-conf-dir", str(self.directory / "net.d")),
                *("--cni-bin-dir", str(self.bin_dir)),
            ],
            self.netns,
            self.directory / "scheduler.log",
            {**self.environment, MARK: str(self.directory)},
        )
        self._pid_file.write_text(f"{process.pid}\n")
        return process

    def wait(self) -> None:
        """Wait until it answers. Raises LabError."""
        deadline = time.monotonic() + scaled(START_TIMEOUT)
        while not self._serves():
            if self.pid() is None or time.monotonic() > deadline:
                lines = self.log().splitlines() or ["it said nothing"]
                raise LabError(f"flatmesh-scheduler on h{self.number} does not run: {lines[-1]}")
            time.sleep(POLL_INTERVAL)

    def _serves(self) -> bool:
        return f"registered as h{self.number} " in self.log() and (
            self.socket.exists() or not self.is_manager
        )

    @property
    def _pid_file(self) -> Path:
        return self.directory / "scheduler.pid"

    def pid(self) -> int | None:
        """Its pid if it runs."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.running(pid) else None

    def log(self) -> str:
        """Its log so far."""
        with contextlib.suppress(OSError):
            return (self.directory / "scheduler.log").read_text(errors="replace")
        return ""


def in_schedulers(directory: Path) -> set[int]:
    """Pids of the schedulers of a lab's or a host's directory, and of their tasks' supervisors."""
    wanted = f"{MARK}={directory}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(one == wanted or one.startswith(wanted + b"/") for one in _environ(entry)):
                    found.add(int(entry.name))
    return found - {os.getpid()}


def _environ(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().split(b"\0")


def remove_task_cgroups(lab: str) -> None:
    """Remove the cgroups of a lab's tasks, whose processes have ended."""
    name = f"flatmesh-scheduler/{lab}-h[0-9]*"
    for top in {*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")}:
        deadline = time.monotonic() + scaled(5.0)
        for path in sorted(top.glob("**/"), key=lambda p: -len(p.parts)):
            while path.is_dir() and time.monotonic() < deadline:
                try:
                    path.rmdir()
                except OSError:  # its last process is still on the way out
                    time.sleep(POLL_INTERVAL)
