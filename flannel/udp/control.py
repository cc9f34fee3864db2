# SPDX-License-Identifier: Apache-2.0
"""The protocol between daemon and udp data-plane process: a JSON line each way a connection.

    {"op": "status"}                      -> {"build", "pid", "settings", "index", "digest",
                                             "counters"}
    {"op": "table"}                       -> {"table"}
    {"op": "set table", "table": {...}}   -> {}
    {"op": "stop"}                        -> {}, and it ends
    {"op": "hand over"}                   -> {"settings", "table", "counters", "udp_segmentation"}
                                             with all descriptors, and it ends

An answer with "error" says in one line what went wrong. The protocol may gain fields and
operations, but none may change: at an upgrade a process of the new version asks one of the old
version for "hand over", and a daemon of either version asks the other's process for "status".

The files, below the daemon's run directory:

    udp.sock   where the process answers; it ends when the file is deleted or replaced
    udp.pid    its pid; locked as long as the process lives, so a number left behind does no harm
    udp.log    its output
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError
from base.socket_path import reachable

EXCHANGE_TIMEOUT = 5.0  # seconds for one request and its answer
SIGNAL_TIMEOUT = 3.0  # seconds for a signal to end the process
MAX_DESCRIPTORS = 253  # SCM_MAX_FD, linux/net/scm.h
POLL_INTERVAL = 0.01  # seconds


class ControlError(FlatmeshError, OSError):
    """The process can't be reached or ended, or refuses; `str()` is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(frozen=True, slots=True)
class UdpSettings:
    """What a running data plane can't change: for other values the process is replaced."""

    tun: str
    port: int
    ipv4: str | None
    """Underlay address to send from and listen at; None: no IPv4 underlay."""
    ipv6: str | None
    underlay_mtu: int
    """Bytes."""
    queues: int
    single: bool = False
    """One packet a call, one queue, no super-packets: for benchmarks."""

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> UdpSettings:
        """Read the document. Raises TypeError when it is none of this version."""
        return cls(**document)


@dataclass(frozen=True, slots=True)
class UdpFiles:
    """The files of one host's data-plane process."""

    run_dir: Path

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.run_dir / "udp.sock"

    @property
    def pid(self) -> Path:
        """Its pid, locked."""
        return self.run_dir / "udp.pid"

    @property
    def log(self) -> Path:
        """Its output."""
        return self.run_dir / "udp.log"

    def remove(self) -> None:
        """Delete them all. Raises OSError."""
        for path in (self.socket, self.pid, self.log):
            path.unlink(missing_ok=True)


def build() -> str:
    """A digest of the data plane's code: a process with another one is replaced."""
    from flannel.udp import _plane  # noqa: PLC0415 - absent where it could not be compiled

    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (
        Path(str(_plane.__file__)),
        *(here / f"{part}.py" for part in ("process", "control", "table", "sockets")),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def digest_of(table: Mapping[str, Any]) -> str:
    """A digest, to compare tables without sending them."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


# -- exchanges ---------------------------------------------------------------------------


def call(
    files: UdpFiles, request: Mapping[str, Any], timeout: float = EXCHANGE_TIMEOUT
) -> dict[str, Any]:
    """Send one request and read its answer; `timeout` is in seconds, for all of it.

    Raises ControlError: with errno ENOENT or ECONNREFUSED when no process listens, ETIMEDOUT
    when the answer does not come in time.
    """
    answer, descriptors = _exchange(files, request, 0, timeout)
    for fd in descriptors:
        os.close(fd)
    return answer


def take_over(files: UdpFiles) -> tuple[dict[str, Any], list[int]]:
    """Ask the process to hand over; returns its answer and descriptors. Raises ControlError."""
    return _exchange(files, {"op": "hand over"}, MAX_DESCRIPTORS, EXCHANGE_TIMEOUT)


def _exchange(
    files: UdpFiles, request: Mapping[str, Any], descriptors: int, timeout: float
) -> tuple[dict[str, Any], list[int]]:
    deadline = time.monotonic() + timeout
    try:
        with (
            reachable(files.socket) as path,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(timeout)
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            text, fds = receive_line(sock, descriptors, deadline)
    except TimeoutError:
        raise ControlError(
            errno.ETIMEDOUT, f"udp data plane: no answer on {files.socket} in {timeout:g} s"
        ) from None
    except OSError as error:
        raise ControlError(error.errno or errno.EIO, f"{files.socket}: {error}") from None
    try:
        answer = json.loads(text)
        if "error" in answer:
            raise ControlError(errno.EPROTO, f"udp data plane: {answer['error']}")
    except ValueError:
        raise ControlError(errno.EPROTO, f"{files.socket}: the answer is cut off") from None
    return answer, fds


def receive_line(
    sock: socket.socket, descriptors: int = 0, deadline: float | None = None
) -> tuple[bytes, list[int]]:
    """Read until a newline or the end, with the descriptors that come along.

    `deadline` is monotonic; without it each piece may take the socket's timeout. Raises OSError,
    TimeoutError among them.
    """
    text, fds = b"", []
    while not text.endswith(b"\n"):
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
        if descriptors:
            chunk, more, _, _ = socket.recv_fds(sock, 1 << 16, descriptors)
            fds += more
        else:
            chunk = sock.recv(1 << 20)
        if not chunk:
            break
        text += chunk
    return text, fds


# -- the process behind -------------------------------------------------------------------


def holder(files: UdpFiles) -> int | None:
    """The pid of the process that holds the lock, whether it answers or not; None: nobody does."""
    try:
        with files.pid.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None


def end(files: UdpFiles) -> None:
    """End the process by SIGTERM, else by SIGKILL; that there is none is fine.

    Raises ControlError.
    """
    _signal(files, (signal.SIGTERM, signal.SIGKILL))


def kill(files: UdpFiles) -> None:
    """End a process that does not answer: it would not handle SIGTERM. Raises ControlError."""
    _signal(files, (signal.SIGKILL,))


def _signal(files: UdpFiles, signals: Sequence[signal.Signals]) -> None:
    pid = holder(files)
    if pid is None:
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if holder(files) != pid:
            return  # it ended meanwhile, and the pid may be another's by now
        for how in signals:
            signal.pidfd_send_signal(fd, how)
            if select.select([fd], [], [], SIGNAL_TIMEOUT)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
    raise ControlError(errno.EBUSY, f"udp data plane (pid {pid}) does not end")


def wait_gone(files: UdpFiles, deadline: float) -> bool:
    """Wait until nobody holds the lock; whether that came before `deadline` (monotonic)."""
    while holder(files) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True
