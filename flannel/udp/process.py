# SPDX-License-Identifier: Apache-2.0
"""The udp data plane's own process: packets go on while the daemon restarts.

    python -m flannel.udp.process --run-dir DIR (--settings JSON | --take-over)

The C extension's threads move packets; this thread only answers the daemon on a unix socket
(protocol: `flannel.udp.control`). The daemon can tell everything anew from its leases, so there
is no state on disk, and killing the process costs only the time until the daemon starts another.

With --take-over it gets the descriptors and the table of the process that is running, which ends
then. Packets that arrive meanwhile wait in the sockets, so an upgrade loses none.

It ends when told to (SIGTERM, or over the socket), when its TUN device is deleted, and when its
socket's file is deleted or replaced, since no daemon could reach it any more.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from base.private_files import open_private
from base.socket_path import reachable
from flannel.udp import _plane
from flannel.udp.control import (
    EXCHANGE_TIMEOUT,
    UdpFiles,
    UdpSettings,
    build,
    digest_of,
    receive_line,
    take_over,
)
from flannel.udp.sockets import Descriptors, open_all
from flannel.udp.table import UdpTable

SOCKET_FILE_INTERVAL = 2.0  # seconds between two checks that the socket's file is ours
LOCK_TIMEOUT = 5.0  # seconds for the process before us to end


@dataclass(slots=True)
class UdpProcess:
    """One running data plane."""

    files: UdpFiles
    settings: UdpSettings
    descriptors: Descriptors
    table: dict[str, Any] = field(default_factory=lambda: UdpTable().to_json())
    counted: Mapping[str, int] = field(default_factory=dict)
    """What the processes before this one counted: counters must not go back."""
    code: str = field(default_factory=build)
    """Computed at start: an upgrade replaces the files while the process runs."""
    index: int = field(init=False)
    """Interface index of the TUN device: it may be deleted and made anew under its name."""
    plane: _plane.DataPlane = field(init=False)
    _wake: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
    """A signal is written into it."""
    _stop: bool = False

    def __post_init__(self) -> None:
        """Set the threads up, not yet running. Raises OSError."""
        self.plane = _plane.DataPlane(
            self.descriptors.queues,
            icmp4=self.descriptors.icmp4,
            icmp6=self.descriptors.icmp6,
            underlay_mtu=self.settings.underlay_mtu,
            single=self.settings.single,
            udp_segmentation=self.descriptors.udp_segmentation,
        )
        self.index = socket.if_nametoindex(self.settings.tun)
        self.set_table(self.table)

    def set_table(self, table: dict[str, Any]) -> None:
        """Route by another table from now on. Raises ValueError, KeyError, TypeError."""
        self.plane.set_peers(*UdpTable.from_json(table).pack(self.settings.port))
        self.table = table

    def counters(self) -> dict[str, int]:
        """The counters, those of the processes before us included."""
        now = self.plane.counters()
        return {name: now[name] + self.counted.get(name, 0) for name in now}

    # -- answering the daemon -----------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop. Raises OSError."""
        with _listening(self.files) as listener:
            mine = self.files.socket.stat()
            self.plane.start()
            signal.signal(signal.SIGTERM, self._told_to_stop)
            signal.set_wakeup_fd(self._wake[1])
            print(f"udp data plane runs: {self.settings}", flush=True)  # to udp.log
            while not self._stop:
                ready, _, _ = select.select(
                    [listener, self.plane, self._wake[0]], [], [], SOCKET_FILE_INTERVAL
                )
                if self.plane in ready:
                    print(f"device {self.settings.tun} is gone", flush=True)
                    break
                if listener in ready:
                    self._answer(listener)
                if not _is(self.files.socket, mine):
                    print(f"{self.files.socket} is gone", flush=True)
                    break
            self.plane.stop()

    def _told_to_stop(self, *_: object) -> None:
        self._stop = True

    def _answer(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the caller has gone away
            caller, _ = listener.accept()
            with caller:
                caller.settimeout(EXCHANGE_TIMEOUT)
                line, _ = receive_line(caller)
                descriptors: list[int] = []
                try:
                    request = json.loads(line)
                    answer = self.do(request)
                    if request["op"] == "hand over":
                        descriptors = self.descriptors.flat()
                except (ValueError, KeyError, TypeError) as error:
                    answer = {"error": f"bad request: {error}"}
                text = json.dumps(answer).encode() + b"\n"
                sent = socket.send_fds(caller, [text], descriptors) if descriptors else 0
                caller.sendall(text[sent:])

    def do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one request. Raises KeyError, ValueError, TypeError for one that is none."""
        match request["op"]:
            case "status":
                return {
                    "build": self.code,
                    "pid": os.getpid(),
                    "settings": self.settings.to_json(),
                    "index": self.index,
                    "digest": digest_of(self.table),
                    "counters": self.counters(),
                }
            case "table":
                return {"table": self.table}
            case "set table":
                self.set_table(request["table"])
                return {}
            case "stop":
                self._stop = True
                return {}
            case "hand over":
                self._stop = True
                self.plane.stop()
                return {
                    "settings": self.settings.to_json(),
                    "table": self.table,
                    "counters": self.counters(),
                    "udp_segmentation": self.descriptors.udp_segmentation,
                }
            case other:
                raise ValueError(f"op {other!r} is unknown")


def _is(path: Path, known: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), known)
    return False


@contextlib.contextmanager
def _listening(files: UdpFiles) -> Any:
    """A listening socket in place of whatever was at the path; root alone can connect."""
    temporary = files.socket.with_suffix(f".{os.getpid()}")
    with (
        reachable(temporary) as path,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener,
    ):
        temporary.unlink(missing_ok=True)
        old = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(old)
        listener.listen()
        temporary.rename(files.socket)
        yield listener


def lock(files: UdpFiles) -> TextIO:
    """Hold the lock of this run directory's data plane, as long as the file is open.

    Raises OSError when another process holds it for longer than LOCK_TIMEOUT.
    """
    file = open(files.pid, "a+", opener=open_private)  # noqa: SIM115 - the caller closes it
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"another data plane holds {files.pid}") from None
            time.sleep(0.005)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def main() -> int:
    """Run; returns 1, with one line on stderr, when the data plane can't be set up."""
    parser = argparse.ArgumentParser(prog="flannel.udp.process")
    parser.add_argument("--run-dir", type=Path, required=True)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--settings", type=json.loads)
    how.add_argument("--take-over", action="store_true")
    arguments = parser.parse_args()
    files = UdpFiles(arguments.run_dir)
    try:
        if arguments.take_over:
            answer, fds = take_over(files)
            settings = UdpSettings.from_json(answer["settings"])
            descriptors = Descriptors.restore(
                settings, fds, udp_segmentation=answer["udp_segmentation"]
            )
            process = UdpProcess(files, settings, descriptors, answer["table"], answer["counters"])
            process.plane.start()  # at once: the process before us may take a moment to end
            process_lock = lock(files)
        else:
            process_lock = lock(files)
            settings = UdpSettings.from_json(arguments.settings)
            process = UdpProcess(files, settings, open_all(settings))
        with process_lock:
            process.run()
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"udp data plane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
