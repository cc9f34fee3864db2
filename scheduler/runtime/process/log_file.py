# SPDX-License-Identifier: Apache-2.0
"""A container's output on disk, in the format of CRI: `TIME STREAM F|P TEXT` a line.

The same as containerd writes, so one reader serves both drivers. A file that has reached its
size is renamed to `.1`, that one to `.2`, and so on. Where nothing can be written (a full disk),
output is dropped and counted, the container is never held up, and the gap is told in the log.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MAX_LINE = 16 * 1024  # bytes, as containerd: a longer line is written in parts
LOST = "flatmesh-scheduler: {} bytes of output were lost here: {}\n"


class LogFile:
    """The writer of one container's log."""

    def __init__(self, path: Path, max_bytes: int, max_files: int) -> None:
        self.path, self.max_bytes, self.max_files = path, max(max_bytes, 4096), max(max_files, 1)
        self._pending = {"stdout": b"", "stderr": b""}
        self._fd = -1
        self._size = 0
        self._lost = 0
        self._reason = ""

    def write(self, stream: str, data: bytes) -> None:
        """Take a piece of output; what is no whole line yet is kept back."""
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        out = bytearray()
        for line in lines:
            begin = 0
            while len(line) - begin > MAX_LINE:
                out += record(stream, line[begin : begin + MAX_LINE], whole=False)
                begin += MAX_LINE
            out += record(stream, line[begin:], whole=True)
        while len(rest) > MAX_LINE:
            out += record(stream, rest[:MAX_LINE], whole=False)
            rest = rest[MAX_LINE:]
        self._pending[stream] = rest
        self._append(bytes(out))

    def finish(self) -> None:
        """Write what has no newline, and close."""
        for stream, rest in self._pending.items():
            if rest:
                self._append(record(stream, rest, whole=False))
        self._pending = {"stdout": b"", "stderr": b""}
        self._append(b"")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        if not data and not self._lost:
            return
        begin = self._size
        try:
            if self._fd >= 0 and self._size > self.max_bytes:
                self._rotate()
            if self._fd < 0:
                self._open()
                begin = self._size
            told = b""
            if self._lost:
                told = record(
                    "stderr", LOST.format(self._lost, self._reason)[:-1].encode(), whole=True
                )
            begin, written = self._size, 0
            while written < len(told + data):
                written += os.write(self._fd, (told + data)[written:])
            self._size += written
            self._lost = 0
        except OSError as error:
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, begin)  # no half line stays
                os.close(self._fd)  # opened anew: the file may be on another disk then
                self._fd = -1
            self._lost += len(data)
            self._reason = error.strerror or str(error)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        for number in range(self.max_files - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                (newer if number > 1 else self.path).replace(older)
        if self.max_files == 1:
            self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size


def record(stream: str, text: bytes, *, whole: bool) -> bytes:
    """One line of the log."""
    now = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    head = f"{seconds}.{now % 10**9:09d}Z {stream} {'F' if whole else 'P'} "
    return head.encode() + text + b"\n"
