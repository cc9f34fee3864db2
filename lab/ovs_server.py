# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch for one host of a lab: its own database, sockets and logs in one directory.

The path of a Unix socket has at most 107 bytes; a directory that is too long is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.hosts import LabError
from lab.time_factor import scaled

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
TIMEOUT = 15.0  # seconds for a server to serve
COMMAND_TIMEOUT = 20.0  # seconds for ovs-vsctl
POLL_INTERVAL = 0.02  # seconds
LONGEST = 107 - len("/ovs-vswitchd.4194304.ctl")  # bytes: unix(7), sun_path


@dataclass(frozen=True, slots=True)
class OvsServer:
    """An ovsdb-server and an ovs-vswitchd inside a host's namespace."""

    directory: Path
    """OVS_RUNDIR of the host."""
    netns: str

    def start(self) -> None:
        """Start both and wait until they serve. Raises LabError."""
        if shutil.which("ovs-vswitchd") is None or not SCHEMA.exists():
            raise LabError("Open vSwitch is not installed: apt install openvswitch-switch")
        if len(str(self.directory)) > LONGEST:
            raise LabError(f"{self.directory}: too long for sockets in it; use a shorter --dir")
        self.directory.mkdir(parents=True, exist_ok=True)
        database = self.directory / "conf.db"
        if not database.exists():
            subprocess.run(
                ["ovsdb-tool", "create", str(database), str(SCHEMA)],
                check=True,
                capture_output=True,
            )
        self.start_database()
        self.start_switch()

    def start_database(self) -> None:
        """Start ovsdb-server. Raises LabError when it doesn't serve in time."""
        sock = self.directory / "db.sock"
        sock.unlink(
            missing_ok=True
        )  # left by a killed server: `_wait` would take it for the new one's
        self._spawn(
            "ovsdb-server",
            str(self.directory / "conf.db"),
            f"--remote=punix:{sock}",
            f"--unixctl={self.directory / 'ovsdb-server.ctl'}",
        )
        self._wait("ovsdb-server", sock)
        self.vsctl("--no-wait", "init")

    def start_switch(self) -> None:
        """Start ovs-vswitchd. Raises LabError when it doesn't serve in time."""
        pid = self._spawn("ovs-vswitchd", f"unix:{self.directory / 'db.sock'}")
        self._wait("ovs-vswitchd", self.directory / f"ovs-vswitchd.{pid}.ctl")

    def vsctl(self, *words: str) -> str:
        """Ask or change the database; returns the answer. Raises LabError."""
        timeout = f"--timeout={scaled(COMMAND_TIMEOUT):.0f}"
        argv = ["ovs-vsctl", timeout, f"--db=unix:{self.directory / 'db.sock'}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"ovs-vsctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def pid(self, program: str) -> int | None:
        """The pid of `ovsdb-server` or `ovs-vswitchd` if it runs."""
        try:
            pid = int((self.directory / f"{program}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.running(pid) else None

    def stop(self, program: str, *, grace: float = processes.TERM_GRACE) -> None:
        """End a server; `grace` 0 kills it."""
        pid = self.pid(program)
        if pid is not None:
            processes.stop([pid], grace)

    def _spawn(self, program: str, *arguments: str) -> int:
        directory = str(self.directory)
        server = processes.spawn(
            [
                program,
                *arguments,
                f"--pidfile={self.directory / program}.pid",
                "--no-chdir",
                "-vconsole:warn",
            ],
            self.netns,
            self.directory / f"{program}.log",
            {"OVS_RUNDIR": directory, "OVS_DBDIR": directory, "OVS_SYSCONFDIR": directory},
        )
        return server.pid

    def _wait(self, program: str, sock: Path) -> None:
        deadline = time.monotonic() + scaled(TIMEOUT)
        while self.pid(program) is None or not sock.exists():
            if time.monotonic() > deadline:
                last = (self.directory / f"{program}.log").read_text().splitlines()[-3:]
                raise LabError(f"{program} in {self.netns} does not serve: {' '.join(last)}")
            time.sleep(POLL_INTERVAL)


def environment(directory: Path) -> dict[str, str]:
    """What ovs-vsctl and its kin need to find these servers."""
    return {**os.environ, "OVS_RUNDIR": str(directory)}
