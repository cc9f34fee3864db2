# SPDX-License-Identifier: Apache-2.0
"""A host on which a real container runtime runs: a lab's host with namespaces of its own.

A runtime needs more of a host than its network: mounts (its /sys shows this network's devices,
its /run and /var/lib are its own), process ids, so that ending the first process ends all.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lab.cluster import Lab

DEADLINE = 120.0  # seconds, for anything that is waited for
REFERENCE = Path("/usr/lib/cni")

# What makes a namespace a host for a runtime. $1: a directory of its own, $2: its name, $3 and
# $4: the daemon's run and state directories, which show at their usual places. Variables would
# not do: podman's conmon calls the clean-up, and so DEL, without the environment of `run`.
SETUP = """
set -e
mount --make-rprivate /
mkdir -p "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/netns /run/lock /run/flatmesh /run/flannel /var/lib/cni /var/lib/flatmesh
mount --bind "$3" /run/flatmesh
mount --bind "$3" /run/flannel
mount --bind "$4" /var/lib/flatmesh
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
hostname "$2"
: > "$1/ready"
while sleep 1000000; do :; done  # as pid 1 it also reaps what a killed runtime leaves
"""


@dataclass
class RuntimeHost:
    """One host of the lab, with a mount and a process namespace."""

    lab: Lab
    number: int
    directory: Path
    first: subprocess.Popen[bytes] | None = None
    state_dir: Path = Path()
    pid: int = 0
    """Of its first process, as seen from here."""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def bin_dir(self) -> Path:
        return self.directory / "bin"

    @property
    def net_d(self) -> Path:
        return self.directory / "net.d"

    def start(self) -> None:
        for part in (self.bin_dir, self.net_d):
            part.mkdir(parents=True)
        for source in (REFERENCE, self.lab.bin_dir):
            for program in source.iterdir():
                link = self.bin_dir / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
        self.variables = {"PATH": os.environ["PATH"]}
        daemon = self.lab.environment(self.number)
        run_dir, self.state_dir = daemon["FLATMESH_RUN_DIR"], Path(daemon["FLATMESH_STATE_DIR"])
        netns = f"/run/netns/{self.lab.names.host(self.number)}"
        self.first = subprocess.Popen(
            [
                *("nsenter", f"--net={netns}"),
                *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", SETUP, "setup", str(self.directory), f"h{self.number}"),
                *(run_dir, str(self.state_dir)),
            ],
            stdin=subprocess.DEVNULL,
        )
        until((self.directory / "ready").exists, "the namespaces", self.first)
        children = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children")
        self.pid = int(children.read_text().split()[0])

    def stop(self) -> None:
        if self.first is not None:
            self.first.kill()  # unshare's --kill-child takes the first process along
            self.first.wait(DEADLINE)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-n", "-p", "--"]

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self.enter, *command],
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def conflist(self, name: str, *plugins: dict[str, object]) -> None:
        """Install a conflist as an operator should: under another name first."""
        text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
        (self.net_d / f".{name}").write_text(text)
        (self.net_d / f".{name}").rename(self.net_d / f"10-{name}.conflist")

    def host_interfaces(self) -> list[str]:
        """Host sides of pods' veth pairs."""
        done = subprocess.run(
            ["ip", "-n", self.lab.names.host(self.number), "-json", "link", "show"],
            capture_output=True,
            check=True,
        )
        links = json.loads(done.stdout)
        return [x["ifname"] for x in links if x["ifname"].startswith("veth")]

    def records(self) -> list[tuple[str, str, str]]:
        from ipam.address_store import AddressStore

        with AddressStore(self.state_dir / "addresses.sqlite") as store:
            return [tuple(record.attachment) for record in store.list()]  # type: ignore[misc]


class WaitUntil(Protocol):
    """Waits for a condition; fails at once when a process ends that must not."""

    def __call__(
        self,
        condition: Callable[[], object],
        what: str,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None: ...


def until(
    condition: Callable[[], object], what: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting: {what}"
        assert process is None or process.poll() is None, f"{what}: ended early"
        time.sleep(0.02)
