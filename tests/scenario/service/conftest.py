# SPDX-License-Identifier: Apache-2.0
"""A real systemd as the first process of a namespace of its own, in one host of a lab."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import processes
from lab.time_factor import scaled

CGROUPS = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup"))
BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/lock /run/netns
mount -t proc proc /proc
if [ -e /etc/machine-id ]; then # systemd would write one that it can't read
    cp /etc/machine-id /run/machine-id
    mount --bind /run/machine-id /etc/machine-id
fi
if [ -n "$2" ]; then # what is written to these directories is gone with the namespace
    for name in opt usr/local etc var/lib; do
        mkdir -p /run/over/$name/upper /run/over/$name/work
        mount -t overlay overlay /$name \
            -o lowerdir=/$name,upperdir=/run/over/$name/upper,workdir=/run/over/$name/work
    done
fi
for name in boot sysinit basic shutdown network-online multi-user; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\nAllowIsolate=yes\n' $name \
        >"$1/$name.target"
done
SYSTEMD_UNIT_PATH="$1:/etc/systemd/system" container=other exec /lib/systemd/systemd --system \
    --unit=boot.target --log-target=console --log-level=info
"""


@dataclass
class Systemd:
    """It reads units from `units`, and from /etc/systemd/system."""

    units: Path
    netns: str
    log: Path
    _pid: int = field(default=0, init=False)

    def start(self, cgroup: Path, *, own_files: bool) -> None:
        cgroup.mkdir()
        # into the cgroup before unshare, so that it is the root of the new cgroup namespace
        join = f'echo $$ >{cgroup}/cgroup.procs; exec "$@"'
        unshare = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup")
        boot = ("sh", "-c", BOOT, "sh", str(self.units), "yes" if own_files else "")
        argv = ["sh", "-c", join, "sh", *unshare, "--kill-child", *boot]
        self._unshare = processes.spawn(argv, self.netns, self.log)

    def booted(self) -> bool:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        with contextlib.suppress(OSError):
            self._pid = int((children.read_text().split() or ["0"])[0])
        return bool(self._pid) and "boot.target" in self.ctl("list-units", "--state=active")

    @property
    def enter(self) -> tuple[str, ...]:
        """A command's prefix; its network stays the caller's."""
        return ("nsenter", f"--target={self._pid}", "--mount", "--pid", "--ipc", "--cgroup", "--")

    def ctl(self, *arguments: str, check: bool = False) -> str:
        done = subprocess.run(
            [*self.enter, "systemctl", "--no-pager", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=scaled(100.0),
        )
        assert not (check and done.returncode), (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def show(self, unit: str, name: str) -> str:
        return self.ctl("show", unit, f"--property={name}", "--value").strip()

    def main_pid(self, unit: str) -> int:
        """As this process sees it."""
        inner = self.show(unit, "MainPID")
        for entry in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                pids = entry.read_text().partition("NSpid:")[2].partition("\n")[0].split()
                if len(pids) > 1 and pids[-1] == inner and self._child(entry.parent):
                    return int(entry.parent.name)
        return 0

    def _child(self, process: Path) -> bool:
        return (process / "ns/pid").samefile(f"/proc/{self._pid}/ns/pid")

    def stop(self) -> None:
        for pid in (self._pid, self._unshare.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or self._unshare.pid, signal.SIGKILL)
        self._unshare.wait()


@pytest.fixture
def make_systemd(
    tmp_path: Path, eventually: Callable[..., None]
) -> Iterator[Callable[..., Systemd]]:
    """Boot one in a network namespace. Skips the test where there is no hierarchy for it."""
    cgroup = next((root for root in CGROUPS if (root / "cgroup.procs").exists()), None)
    if cgroup is None:
        pytest.skip("no cgroups for systemd")
    cgroup /= f"fm{secrets.token_hex(4)}"
    started: list[Systemd] = []

    def make(netns: str, *, own_files: bool = False) -> Systemd:
        units = tmp_path / "units"
        units.mkdir()
        made = Systemd(units, netns, tmp_path / "systemd.log")
        started.append(made)
        made.start(cgroup, own_files=own_files)
        eventually(made.booted, "systemd has booted", timeout=30.0)
        return made

    yield make
    for one in started:
        one.stop()

    def removed() -> bool:
        for folder in sorted((p for p in cgroup.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    eventually(removed, "its cgroups are gone", timeout=30.0)
