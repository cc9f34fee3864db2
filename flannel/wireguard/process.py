# SPDX-License-Identifier: Apache-2.0
"""A wireguard-go process per device: started, found again, stopped.

The process outlives the daemon, and packets go on. It is found again by asking the kernel: it
is the process that listens on the socket

    <run_dir>/wireguard/<device>.sock

or has the TUN device attached (/proc/<pid>/fdinfo tells). The second way also finds it when the
daemon died after starting it and before there was a socket. A pid file was not used, because it
may be stale. A second process can't be started by mistake: the TUN device has one queue.

wireguard-go puts its socket into /var/run/wireguard. Hosts that are namespaces of one machine
share that directory and would use each other's sockets. So each wireguard-go gets a mount
namespace of its own, with our directory mounted there. It gets the TUN device as a descriptor
(WG_TUN_FD, by which it passes it to itself when it daemonizes): see `hostnet.wireguard.device`.

wireguard-go ends when the TUN device or the socket's file is deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from base.errors import FlatmeshError
from base.private_files import open_private
from flannel.wireguard.uapi import Uapi
from hostnet.wireguard.device import open_tun

PROGRAM = "wireguard-go"
NO_WIREGUARD = (
    "this kernel has no WireGuard and wireguard-go is not installed: install either "
    "(Debian: apt install wireguard-go)"
)
START_TIMEOUT = 9.0  # seconds until it answers
STOP_TIMEOUT = 4.0  # seconds between SIGTERM and SIGKILL, and again after that
VERSION_TIMEOUT = 5.0  # seconds for `wireguard-go --version`
POLL_INTERVAL = 0.01  # seconds
LOG_LIMIT = 1 << 20  # bytes; wireguard-go logs each failed handshake
OFFLOADS_SINCE = 20231211
"""wireguard-go's first release whose packets are preceded by a struct virtio_net_hdr."""
CONFINED = """
cd "$1" && mount -n -t tmpfs -o mode=0755,size=16k tmpfs /var/run &&
mkdir /var/run/wireguard && mount -n -c --bind . /var/run/wireguard && exec "$2" -f "$3"
"""
"""Shell, run in a fresh mount namespace. `.` stays our directory after /var/run is covered."""


class WireguardProcessError(FlatmeshError, OSError):
    """wireguard-go can't be started or stopped; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


class WireguardProcess:
    """The wireguard-go of one device in the caller's network namespace."""

    def __init__(self, run_dir: Path, device: str) -> None:
        self.device = device
        self.directory = run_dir / "wireguard"
        self.socket = self.directory / f"{device}.sock"
        self.log = self.directory / f"{device}.log"
        self.uapi = Uapi(self.socket)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers.

        Raises TunBusyError while another process holds the device, WireguardProcessError, OSError.
        """
        program = shutil.which(PROGRAM)
        if program is None:
            raise WireguardProcessError(NO_WIREGUARD)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self.reap()
        tun = open_tun(self.device, offload=_offloads(program))
        try:
            self._spawn(program, tun)
        finally:
            os.close(tun)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.uapi.answers():
            if self.reap():
                raise WireguardProcessError(
                    f"wireguard-go for {self.device} ended: {self._last_line()}"
                )
            if time.monotonic() > deadline:
                raise WireguardProcessError(
                    f"wireguard-go for {self.device} does not answer: {self._last_line()}"
                )
            time.sleep(POLL_INTERVAL)

    def _spawn(self, program: str, tun: int) -> None:
        with open(self.log, "wb", opener=open_private) as log:
            self._child = subprocess.Popen(
                [
                    *("unshare", "--mount", "--", "/bin/sh", "-c", CONFINED),
                    *("sh", str(self.directory), program, self.device),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "WG_TUN_FD": str(tun)},
                cwd="/",
                pass_fds=(tun,),
                start_new_session=True,
            )

    def serves(self) -> bool:
        """Whether a process listens, and has the TUN device that is there now attached.

        When the device is deleted and made anew, the process of the old one ends a moment later.
        """
        pid = self.uapi.pid()
        return pid is not None and _has_attached(Path(f"/proc/{pid}"), self.device)

    def reap(self) -> bool:
        """Whether the process that we started has ended; forgets it then."""
        if self._child is None or self._child.poll() is None:
            return False
        self._child = None
        return True

    def trim_log(self) -> None:
        """Empty a log that has grown large. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                os.truncate(self.log, 0)

    def stop(self) -> None:
        """End the process that listens or has the TUN device attached.

        Takes at most twice STOP_TIMEOUT. Raises WireguardProcessError.
        """
        waiting = dict(self._holders())
        pid = self.uapi.pid()
        if pid is not None and pid not in waiting:  # its device was deleted
            with contextlib.suppress(ProcessLookupError):
                waiting[pid] = os.pidfd_open(pid)
        try:
            for how in (signal.SIGTERM, signal.SIGKILL):
                for fd in waiting.values():
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, how)
                self._await_end(waiting)
        finally:
            for fd in waiting.values():
                os.close(fd)
        if waiting:
            raise WireguardProcessError(
                f"wireguard-go for {self.device} (pid {', '.join(map(str, waiting))}) does not end"
            )
        self.reap()
        self.socket.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete its files. Raises OSError."""
        for path in (self.socket, self.log):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()  # another device's files may be there

    def _await_end(self, waiting: dict[int, int]) -> None:
        """Wait, and take those that end out of `waiting` (pidfds by pid)."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while waiting and (left := deadline - time.monotonic()) > 0:
            ended, _, _ = select.select(list(waiting.values()), [], [], left)
            for pid in [pid for pid, fd in waiting.items() if fd in ended]:
                os.close(waiting.pop(pid))

    def _holders(self) -> Iterator[tuple[int, int]]:
        """Yield pid and pidfd of the processes of this namespace that have the device attached.

        And of those that were started for it: one whose device was deleted has neither the device
        nor its socket for the moment that it takes to end.
        """
        here = Path("/proc/thread-self/ns/net").stat()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it has ended meanwhile
                there = (entry / "ns/net").stat()
                if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                    continue
                fd = os.pidfd_open(int(entry.name))
                if _has_attached(entry, self.device) or _was_started_for(entry, self.device):
                    yield int(entry.name), fd
                else:
                    os.close(fd)

    def _last_line(self) -> str:
        """The last line of its output."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it wrote nothing"


def _was_started_for(process: Path, device: str) -> bool:
    """Whether a process (`/proc/PID`) is a wireguard-go whose argument is the device."""
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return Path(os.fsdecode(words[0])).name == PROGRAM and words[-1] == device.encode()
    return False


def _has_attached(process: Path, device: str) -> bool:
    """Whether a process (`/proc/PID`) has a TUN device of that name attached; False once ended."""
    mark = f"\niff:\t{device}\n"
    with contextlib.suppress(OSError):
        for info in (process / "fdinfo").iterdir():
            with contextlib.suppress(OSError):  # this descriptor was closed meanwhile
                if mark in info.read_text():
                    return True
    return False


def _offloads(program: str) -> bool:
    """Whether this wireguard-go takes 64 KiB packets with a struct virtio_net_hdr.

    Raises WireguardProcessError.
    """
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=VERSION_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise WireguardProcessError(
            f"{program} --version does not end in {VERSION_TIMEOUT:g} s"
        ) from None
    version = re.search(r"v?0\.0\.(\d{8})", done.stdout)
    return version is not None and int(version[1]) >= OFFLOADS_SINCE
