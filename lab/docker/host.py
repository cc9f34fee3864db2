# SPDX-License-Identifier: Apache-2.0
"""dockerd on one host of a lab, in mount, process, UTS and IPC namespaces of its own.

dockerd needs more of a host than its network: a /sys that shows this network's devices, a /run of
its own, and process ids, so that the end of the first process ends all containers. What it stores
is in the host's directory; the client reaches it by the socket `docker.sock` there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import processes
from lab.docker.image import BUSYBOX, IMAGE, image_archive
from lab.hosts import LabError
from lab.time_factor import scaled

DOCKERD, DOCKER = "/usr/sbin/dockerd", "/usr/bin/docker"
CGROUPS = Path("/sys/fs/cgroup")
START_TIMEOUT = 60.0  # seconds
POLL_INTERVAL = 0.05  # seconds
COMMAND_TIMEOUT = 60.0  # seconds
# $1: the host's directory, $2: its name. The cgroups stay this machine's; all else that would show
# another host is mounted anew. The first process also reaps what a killed container leaves.
SETUP = """
set -e
mount --make-rprivate /
mkdir -p "$1/cgroup" "$1/plugins"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins /run/lock
mount --bind "$1/plugins" /run/docker/plugins
hostname "$2"
: > "$1/namespaces-ready"
while sleep 1000000; do :; done
"""


def require_docker() -> None:
    """Raise LabError unless dockerd, its client and a static busybox are here."""
    missing = [name for name in (DOCKERD, DOCKER, str(BUSYBOX)) if shutil.which(name) is None]
    if missing:
        raise LabError(
            f"no {', '.join(missing)} here: apt-get install --no-install-recommends docker.io "
            "busybox-static"
        )


def cgroup_of(lab: str, number: int) -> str:
    """The cgroup of a host's containers."""
    return f"flatmesh-{lab}-h{number}"


@dataclass(frozen=True, slots=True)
class DockerOfHost:
    """One host's dockerd, running or not."""

    lab: str
    number: int
    netns: str
    directory: Path
    """Of the host."""

    @property
    def socket(self) -> Path:
        """What `docker -H unix://...` names."""
        return self.directory / "docker.sock"

    @property
    def plugin_socket(self) -> Path:
        """Where flatmeshd serves the drivers: dockerd sees it in /run/docker/plugins."""
        return self.directory / "plugins/flatmesh.sock"

    def start(self) -> None:
        """Start it, and wait until it answers. Raises LabError."""
        ready = self.directory / "namespaces-ready"
        ready.unlink(missing_ok=True)
        holder = processes.spawn(
            [
                *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", SETUP, "setup", str(self.directory), f"h{self.number}"),
            ],
            self.netns,
            self.directory / "dockerd.log",
        )
        self._wait(ready.exists, holder)
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        dockerd = processes.spawn(
            [
                *("nsenter", f"--target={children[0]}", "-m", "-u", "-i", "-p", "--"),
                *(DOCKERD, "--host", f"unix://{self.socket}", "--storage-driver", "vfs"),
                *("--data-root", str(self.directory / "docker"), "--bridge", "none"),
                *("--exec-opt", "native.cgroupdriver=cgroupfs"),
                *("--cgroup-parent", f"/{cgroup_of(self.lab, self.number)}"),
                *("--log-level", "warn", "--shutdown-timeout", "2"),
            ],
            self.netns,
            self.directory / "dockerd.log",
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        self._wait(self._answers, dockerd)

    def load(self) -> None:
        """Make the image. Raises LabError."""
        archive = self.directory / "image.tar"
        archive.write_bytes(image_archive())
        self("import", str(archive), IMAGE)
        archive.unlink()

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run the docker client. Raises LabError."""
        try:
            done = subprocess.run(
                [DOCKER, "--host", f"unix://{self.socket}", *arguments],
                env=_client_environment(self.directory),
                capture_output=True,
                text=True,
                timeout=scaled(COMMAND_TIMEOUT),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"h{self.number}: docker {arguments[0]} has not ended: {self._last_words()}"
            ) from None
        if check and done.returncode:
            words = done.stderr.strip().partition("\nSee 'docker ")[0]
            raise LabError(f"h{self.number}: docker {arguments[0]}: {words}")
        return done.stdout.strip()

    def _answers(self) -> bool:
        return bool(self("version", "--format", "{{.Server.Version}}", check=False))

    def _wait(self, condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + scaled(START_TIMEOUT)
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"dockerd on h{self.number} does not run: {self._last_words()}")
            time.sleep(POLL_INTERVAL)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.directory / "dockerd.log").read_text(errors="replace").splitlines()
            return lines[-1][-300:] if lines else "it said nothing"
        return "it has no log"


def _client_environment(directory: Path) -> Mapping[str, str]:
    """The caller's settings of the docker client are for another dockerd."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(directory)}


def remove_cgroups(lab: str) -> None:
    """Remove what containers of a lab that is down have left there."""
    for top in {*CGROUPS.glob(f"flatmesh-{lab}-h*"), *CGROUPS.glob(f"*/flatmesh-{lab}-h*")}:
        for path in sorted(top.glob("**/"), key=lambda p: -len(p.parts)):
            deadline = time.monotonic() + scaled(5.0)
            while path.is_dir() and time.monotonic() < deadline:
                try:
                    path.rmdir()
                except OSError:  # its last process is still on the way out
                    time.sleep(0.02)
