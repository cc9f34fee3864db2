# SPDX-License-Identifier: Apache-2.0
"""A lab's host on which the real dockerd runs, in mount and process namespaces of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.cluster import Lab
from lab.docker.host import DOCKER, DOCKERD
from lab.docker.image import image_archive
from tests.spec.runtimes.runtime_host import RuntimeHost, until

IMAGE = "fm-busybox"
SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print(server.getsockname()[1], flush=True)
server.settimeout(60)
print(server.accept()[1][0], flush=True)
"""
CLIENT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
"""
PREPARE = """
set -e
mkdir -p /run/docker/plugins "$1"
mount --bind "$1" /run/docker/plugins
"""


@dataclass
class DockerHost:
    """One host; dockerd's state is on its own /var/lib and outlives dockerd."""

    lab: Lab
    number: int
    host: RuntimeHost
    cgroup_parent: str
    process: subprocess.Popen[bytes] | None = None
    options: list[str] = field(default_factory=list)

    @property
    def plugins(self) -> Path:
        """The host's /run/docker/plugins, as seen from here."""
        return self.lab.host_dir(self.number) / "plugins"

    @property
    def log(self) -> Path:
        return self.host.directory / "dockerd.log"

    def prepare(self) -> None:
        self.host.start()
        self.host.variables["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
        self.host.run("sh", "-c", PREPARE, "prepare", str(self.plugins))

    def start(self, *options: str) -> None:
        """Start dockerd and wait until it answers."""
        self.options = list(options) or self.options
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(*self.host.enter, DOCKERD, "--storage-driver", "vfs"),
                    *("--exec-opt", "native.cgroupdriver=cgroupfs"),
                    *("--cgroup-parent", self.cgroup_parent),
                    *("--log-level", "warn", "--shutdown-timeout", "5"),
                    *self.options,
                ],
                env=self.host.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            until(self.answers, "dockerd answers", self.process)
        except AssertionError:
            raise AssertionError(self.log.read_text()[-3000:]) from None

    def answers(self) -> bool:
        done = subprocess.run(
            [*self.host.enter, DOCKER, "version", "--format", "{{.Server.Version}}"],
            env=self.host.variables,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def flatmesh(self, *arguments: str) -> str:
        """Run the operator's command on the host."""
        return self.host.run(sys.executable, "-I", "-m", "cli.main", *arguments)

    def start_daemon(self) -> None:
        self.lab.start_daemon(
            self.number, "--docker-bridge", f"--docker-plugin={self.plugins}/flatmesh.sock"
        )
        self.lab.wait_ready(self.number)

    def load(self) -> None:
        """Make the image: one static busybox."""
        archive = self.host.directory / "image.tar"
        archive.write_bytes(image_archive())
        self("import", str(archive), IMAGE)

    def __call__(self, *arguments: str, check: bool = True) -> str:
        return self.host.run(DOCKER, *arguments, check=check)

    def run(self, name: str, *options: str) -> None:
        """Start a container that sleeps."""
        stop = "--stop-timeout", "1"  # busybox as pid 1 overhears SIGTERM
        self("run", "--detach", "--name", name, *stop, *options, IMAGE, "sleep", "1000000")

    def address(self, name: str, network: str = "bridge", *, ipv6: bool = False) -> str:
        """A container's address on a network."""
        key = "GlobalIPv6Address" if ipv6 else "IPAddress"
        form = f'{{{{(index .NetworkSettings.Networks "{network}").{key}}}}}'
        return self("inspect", "--format", form, name)

    def inside(self, name: str) -> list[str]:
        """What runs a program of this machine in a container's network."""
        pid = self("inspect", "--format", "{{.State.Pid}}", name)
        return [*self.host.enter, "nsenter", f"--net=/proc/{pid}/ns/net", "--"]

    def kill(self) -> None:
        """`kill -9` of dockerd alone; its containers run on."""
        pid = self.host.run("cat", "/var/run/docker.pid")
        self.host.run("kill", "-9", pid)
        assert self.process is not None
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(AssertionError):
                self.host.run("kill", self.host.run("cat", "/var/run/docker.pid"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.host.stop()


def reached(sender: Sequence[str], address: str) -> bool:
    """Whether a ping is answered within seconds; the first one may wait for a neighbour."""
    argv = [*sender, "ping", "-c", "1", "-W", "1", address]
    for _ in range(15):
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            return True
    return False


def seen_source(
    sender: Sequence[str],
    receiver: Sequence[str],
    address: str,
    port: int = 0,
    by: tuple[str, int] | None = None,
) -> str:
    """Whom the receiver sees when the sender opens a TCP connection to its address.

    Or to `by`, an address and a port that lead to it.
    """
    server_argv = [*receiver, sys.executable, "-c", SERVER, address, str(port)]
    with subprocess.Popen(server_argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        listens = int(server.stdout.readline())
        there = by or (address, listens)
        client = [*sender, sys.executable, "-c", CLIENT, there[0], str(there[1])]
        subprocess.run(client, check=True, timeout=60)
        return server.stdout.readline().strip()
