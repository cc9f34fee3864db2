"""How the daemon and the udp data-plane process talk: one JSON line each way per connection.

    {"op": "status"}                      -> {"build", "pid", "settings", "index", "digest",
                                             "counters"}
    {"op": "table"}                       -> {"table"}
    {"op": "set table", "table": {...}}   -> {}
    {"op": "stop"}                        -> {}, and it ends
    {"op": "hand over"}                   -> {"settings", "table", "counters", "udp_segmentation"}
                                             with all descriptors, and it ends

An answer with "error" says in one line what went wrong.

The files, below the daemon's run directory:

    udp.sock   where the process answers; it ends when the file is not its own any more
    udp.pid    its pid; locked as long as it lives, so a stale number can't mislead
    udp.log    what it last said
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 5.0  # seconds for one exchange, and for a signal to end the process
MAX_DESCRIPTORS = 253  # SCM_MAX_FD, linux/net/scm.h
POLL = 0.01  # seconds


class ControlError(OSError):
    """The process can't be reached or ended, or refused; `str()` is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(frozen=True, slots=True)
class UdpSettings:
    """What a running data plane can't change: another value means another process."""

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
        """Its last words."""
        return self.run_dir / "udp.log"

    def remove(self) -> None:
        """Delete them all. Raises OSError."""
        for path in (self.socket, self.pid, self.log):
            path.unlink(missing_ok=True)


def build() -> str:
    """What identifies the code of the data plane: a process of another one is replaced."""
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
    """What tells two tables apart without sending them."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


# -- exchanges ---------------------------------------------------------------------------


def call(files: UdpFiles, request: Mapping[str, Any]) -> dict[str, Any]:
    """One exchange. Raises ControlError, with errno ENOENT or ECONNREFUSED when nobody is there."""
    answer, descriptors = _exchange(files, request, 0)
    for fd in descriptors:
        os.close(fd)
    return answer


def take_over(files: UdpFiles) -> tuple[dict[str, Any], list[int]]:
    """Ask the process to hand over; returns its answer and descriptors. Raises ControlError."""
    return _exchange(files, {"op": "hand over"}, MAX_DESCRIPTORS)


def _exchange(
    files: UdpFiles, request: Mapping[str, Any], descriptors: int
) -> tuple[dict[str, Any], list[int]]:
    try:
        with (
            reachable(files.socket) as path,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(TIMEOUT)
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            text, fds = receive_line(sock, descriptors)
    except OSError as error:
        raise ControlError(error.errno or errno.EIO, f"{files.socket}: {error}") from None
    try:
        answer = json.loads(text)
        if "error" in answer:
            raise ControlError(errno.EPROTO, f"udp data plane: {answer['error']}")
    except ValueError:
        raise ControlError(errno.EPROTO, f"{files.socket}: the answer is cut off") from None
    return answer, fds


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of at most 107 bytes, all that a socket's address takes, for a longer path."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def receive_line(sock: socket.socket, descriptors: int = 0) -> tuple[bytes, list[int]]:
    """Read until a newline or the end, with the descriptors that come along. Raises OSError."""
    text, fds = b"", []
    while not text.endswith(b"\n"):
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
    """End the process, asked or not; that there is none is fine. Raises ControlError."""
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
        for how in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(fd, how)
            if select.select([fd], [], [], TIMEOUT)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
    raise ControlError(errno.EBUSY, f"udp data plane (pid {pid}) won't end")


def wait_gone(files: UdpFiles, deadline: float) -> bool:
    """Wait until nobody holds the lock; whether that came before `deadline` (monotonic)."""
    while holder(files) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
