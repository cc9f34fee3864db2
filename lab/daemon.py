"""flatmeshd on one host of a lab."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.hosts import LabError
from lab.time_factor import scaled

READY_TIMEOUT = 30.0  # seconds for a daemon to have its lease
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

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait for `ready`. Raises LabError with the last lines of the log."""
        deadline = time.monotonic() + scaled(timeout)
        while not self.ready():
            if time.monotonic() > deadline or self.pid() is None:
                last = "\n".join(self.log().splitlines()[-5:])
                raise LabError(f"flatmeshd on {self.host} is not ready; its log ends with:\n{last}")
            time.sleep(POLL_INTERVAL)
