# SPDX-License-Identifier: Apache-2.0
"""flatmeshd on one host of a lab."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.hosts import LabError
from lab.time_factor import scaled

READY_TIMEOUT = 30.0  # seconds for a daemon to have its lease
STUCK_TIMEOUT = 10.0  # seconds that a daemon may complain of the same thing until it is given up
POLL_INTERVAL = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class LabDaemon:
    """The daemon of one host, running or not; its pid is kept in a file of the host."""

    host: str
    """For messages: `h1`."""
    netns: str
    directory: Path
    """Of the host."""
    argv: tuple[str, ...]
    """The command line, without further flags."""
    environment: Mapping[str, str]

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start it; `wait_ready` tells when it serves."""
        daemon = processes.spawn(
            [*self.argv, *flags],
            self.netns,
            self.directory / "flatmeshd.log",
            self.environment,
        )
        (self.directory / "flatmeshd.pid").write_text(f"{daemon.pid}\n")
        return daemon

    def pid(self) -> int | None:
        """Its pid if it runs."""
        try:
            pid = int((self.directory / "flatmeshd.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.running(pid) else None

    def stop(self) -> None:
        """Ask it to end with SIGTERM and wait; one that doesn't run is no error."""
        pid = self.pid()
        if pid is not None:
            processes.stop([pid])

    def log(self) -> str:
        """Its log so far."""
        with contextlib.suppress(OSError):
            return (self.directory / "flatmeshd.log").read_text()
        return ""

    def ready(self) -> bool:
        """Whether the daemon that runs now has its lease and programmed what it knows.

        The file holds the pid of the daemon that wrote it: a killed one leaves it behind.
        """
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "run/ready").read_text()) == self.pid()
        return False

    def wait_ready(
        self,
        timeout: float = READY_TIMEOUT,
        report: Callable[[str], None] = lambda _: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for `ready`. Raises LabError with the daemon's last words: it ended, or is stuck.

        `report` is told what the daemon complains of, each once; `meanwhile` is called often.
        """
        started = time.monotonic()
        complaint, since = "", started
        while not self.ready():
            now = time.monotonic()
            if self.pid() is None:
                raise LabError(f"flatmeshd on {self.host} has ended: {last_words(self.log())}")
            if (last := last_error(self.log())) != complaint:
                complaint, since = last, now
                report(f"{self.host}: {complaint}")
            stuck = complaint and now > since + scaled(STUCK_TIMEOUT)
            if stuck or now > started + scaled(timeout):
                words = complaint or last_words(self.log())
                raise LabError(f"flatmeshd on {self.host} is not ready: {words}")
            meanwhile()
            time.sleep(POLL_INTERVAL)


def last_error(log: str) -> str:
    """The message of the last error in a daemon's log; empty: there is none."""
    errors = [line for line in log.splitlines() if " level=error " in line]
    return last_words(errors[-1]) if errors else ""


def last_words(log: str) -> str:
    """The last line that the daemon said, without what its log puts before it."""
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    found = re.search(r' msg=("(?:[^"\\]|\\.)*"|\S+)', last)
    if found is None:
        return last.removeprefix("Error: ").removeprefix("flatmeshd: ")
    return str(json.loads(found[1])) if found[1].startswith('"') else found[1]
