# SPDX-License-Identifier: Apache-2.0
"""Processes of a lab: started inside a network namespace, and found again by it.

A lab that died leaves processes whose pids are written nowhere. Each of them is still in one
of the lab's network namespaces, which /proc tells: `in_namespaces` finds them all, also those
that a daemon started itself (wireguard-go, ovs-vswitchd).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from base import paths
from lab.time_factor import scaled

NETNS_DIR = Path(paths.NETNS_DIR)

TERM_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
POLL_INTERVAL = 0.02  # seconds


def enter(netns: str) -> tuple[str, ...]:
    """Return the command prefix that runs a program in a named network namespace."""
    return ("nsenter", f"--net={NETNS_DIR / netns}", "--")


def spawn(
    argv: Sequence[str], netns: str, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a namespace, in its own session, its output going to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*enter(netns), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**surroundings(), **(environment or {})},
            start_new_session=True,
        )


def surroundings() -> dict[str, str]:
    """This machine's variables, without those that are for a daemon of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FLANNELD_")}


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    fields = stat.rpartition(")")[2].split()
    # the first thread of a killed program is a zombie while others still close its sockets
    state, threads = fields[0], int(fields[17])
    return state not in "ZX" or threads > 1


def stopped(pid: int) -> bool:
    """Whether each thread of a process stands still after SIGSTOP."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return all(state in "TZ" for state in states)


def stop(pids: Iterable[int], grace: float = TERM_GRACE) -> None:
    """Ask processes to end, wait, and end those that don't. Gone ones are no error."""
    waiting = set(pids)
    for how, timeout in ((signal.SIGTERM, grace), (signal.SIGKILL, TERM_GRACE)):
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        deadline = time.monotonic() + scaled(timeout)
        while waiting and time.monotonic() < deadline:
            for pid in waiting:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            waiting = {pid for pid in waiting if running(pid)}
            if waiting:
                time.sleep(POLL_INTERVAL)


def in_namespaces(names: Iterable[str]) -> set[int]:
    """Pids of all processes that live in one of the named network namespaces."""
    wanted = set()
    for name in names:
        with contextlib.suppress(OSError):
            wanted.add(_identity(NETNS_DIR / name))
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if _identity(entry / "ns/net") in wanted:
                    found.add(int(entry.name))
    return found - {os.getpid()}


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
