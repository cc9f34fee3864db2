# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup: version 2 where it is writable, else the controllers of version 1.

A host may let nobody write any of them. Then a container runs without limits, and its stats
are empty: `missing()` says so once for the node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from scheduler.runtime.protocol import ContainerStats, Limits

ROOT = Path("/sys/fs/cgroup")
V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
PERIOD = 100_000  # microseconds, the kernel's default for processor limits
NO_LIMIT = 1 << 60  # version 1 says a number near 2^63 where there is none
REMOVE_TIMEOUT = 5.0  # seconds, for the last process to be gone from a cgroup


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where below /sys/fs/cgroup our cgroups may be."""

    v2: Path | None
    v1: dict[str, Path]

    @classmethod
    def found(cls, root: Path = ROOT) -> Cgroups:
        """As mounted and writable here."""
        if (root / "cgroup.controllers").exists():
            return cls(root if os.access(root, os.W_OK) else None, {})
        v1 = {c: root / c for c in V1_CONTROLLERS if (root / c / "cgroup.procs").exists()}
        return cls(None, {c: path for c, path in v1.items() if os.access(path, os.W_OK)})

    def missing(self) -> str:
        """What of the limits can't be set here; empty: nothing."""
        if self.v2 is not None:
            has = set((self.v2 / "cgroup.controllers").read_text().split())
        else:
            has = set(self.v1)
        lacking = [c for c in ("memory", "cpu", "pids") if c not in has]
        return f"cgroup controllers not writable: {', '.join(lacking)}" if lacking else ""

    def directories(self, name: str) -> dict[str, Path]:
        """Controller (version 2: all of them, under the name `v2`) and this cgroup's directory."""
        if self.v2 is not None:
            return {"v2": self.v2 / name}
        return {controller: path / name for controller, path in self.v1.items()}

    def create(self, name: str, limits: Limits) -> list[str]:
        """Make a cgroup; returns what could not be set."""
        problems = []
        for controller, path in self.directories(name).items():
            try:
                path.mkdir(parents=True, exist_ok=True)
                if controller == "v2":
                    self._delegate(name)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
                continue
            for file, value in settings(controller, limits):
                try:
                    (path / file).write_text(value)
                except OSError as error:
                    problems.append(f"{path / file}: {error.strerror}")
        return problems

    def _delegate(self, name: str) -> None:
        """Switch the controllers on, from the root down to the cgroup's parent."""
        assert self.v2 is not None  # noqa: S101 # the caller asked
        path = self.v2
        for part in ("", *Path(name).parent.parts):
            path = path / part
            for controller in ("cpu", "memory", "pids"):
                with contextlib.suppress(OSError):
                    (path / "cgroup.subtree_control").write_text(f"+{controller}")

    def join(self, name: str) -> None:
        """Move the calling process into the cgroup."""
        for path in self.directories(name).values():
            with contextlib.suppress(OSError):
                (path / "cgroup.procs").write_text("0")

    def pids(self, name: str) -> set[int]:
        """Processes in the cgroup."""
        found: set[int] = set()
        for path in self.directories(name).values():
            with contextlib.suppress(OSError, ValueError):
                found.update(map(int, (path / "cgroup.procs").read_text().split()))
        return found - {0}

    def kill(self, name: str) -> None:
        """SIGKILL for everything in it."""
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, name: str) -> bool:
        """End what is left in it and remove it with the cgroups below; False: something stays."""
        deadline = time.monotonic() + REMOVE_TIMEOUT
        removed = True
        for path in self.directories(name).values():
            below = [Path(found) for found, _, _ in os.walk(path)] if path.is_dir() else []
            for directory in reversed(below):
                while True:
                    try:
                        directory.rmdir()
                    except FileNotFoundError:
                        break
                    except OSError as error:
                        if error.errno != errno.EBUSY or time.monotonic() > deadline:
                            removed = False
                            break
                        self.kill(name)
                        time.sleep(0.005)
                    else:
                        break
        return removed

    def oom_kills(self, name: str) -> int:
        """How often the kernel ended something in it for lack of memory."""
        directories = self.directories(name)
        if "v2" in directories:
            return _field(directories["v2"] / "memory.events", "oom_kill")
        memory = directories.get("memory")
        return _field(memory / "memory.oom_control", "oom_kill") if memory else 0

    def stats(self, name: str, container: str) -> ContainerStats:
        """What the cgroup's processes have used."""
        directories = self.directories(name)
        if (v2 := directories.get("v2")) is not None:
            limit = _text(v2 / "memory.max")
            return ContainerStats(
                container,
                _field(v2 / "cpu.stat", "usage_usec") / 1e6,
                max(
                    0, _number(v2 / "memory.current") - _field(v2 / "memory.stat", "inactive_file")
                ),
                int(limit) if limit.isdigit() else 0,
                _number(v2 / "pids.current"),
            )
        absent = Path("/nonexistent")
        memory = directories.get("memory", absent)
        maximum = _number(memory / "memory.limit_in_bytes")
        inactive = _field(memory / "memory.stat", "total_inactive_file")
        return ContainerStats(
            container,
            _number(directories.get("cpuacct", absent) / "cpuacct.usage") / 1e9,
            max(0, _number(memory / "memory.usage_in_bytes") - inactive),
            maximum if maximum < NO_LIMIT else 0,
            _number(directories.get("pids", absent) / "pids.current"),
        )


def remove_everywhere(name: str, root: Path = ROOT) -> None:
    """Remove an empty cgroup of every controller: runc makes one of each, and leaves parents."""
    for top in (root / name, *root.glob(f"*/{name}")):
        for path, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)  # noqa: PTH106


def settings(controller: str, limits: Limits) -> list[tuple[str, str]]:
    """Files of a new cgroup, and what to write into them."""
    quota = max(1000, limits.nano_cpus * PERIOD // 10**9)
    wanted: list[tuple[str, str, int]] = []
    if controller == "v2":
        wanted = [
            ("memory.max", str(limits.memory), limits.memory),
            ("memory.swap.max", "0", limits.memory),
            ("cpu.max", f"{quota} {PERIOD}", limits.nano_cpus),
            ("pids.max", str(limits.pids), limits.pids),
        ]
    elif controller == "memory":
        wanted = [("memory.limit_in_bytes", str(limits.memory), limits.memory)]
    elif controller == "cpu":
        wanted = [
            ("cpu.cfs_period_us", str(PERIOD), limits.nano_cpus),
            ("cpu.cfs_quota_us", str(quota), limits.nano_cpus),
        ]
    elif controller == "pids":
        wanted = [("pids.max", str(limits.pids), limits.pids)]
    return [(file, value) for file, value, asked in wanted if asked]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _field(path: Path, key: str) -> int:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == key:
            return int(words[1])
    return 0
