# SPDX-License-Identifier: Apache-2.0
"""Starts, replaces and ends the udp data-plane process, from the daemon's side.

The process outlives the daemon, and is found again by its lock and its socket
(`flannel.udp.control`). Every call here ends within CALL_LIMIT, whatever the process does.

A process that holds its lock but does not answer may be stopped by a debugger, or the host may
be busy: it is left alone for HUNG_TIMEOUT, and every call raises ControlError meanwhile. One
that is silent for longer is killed and replaced, since it moves no packets either.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from base.errors import FlatmeshError
from base.private_files import make_private_directory, open_private
from flannel.udp.control import ControlError, UdpFiles, call, end, holder, kill, wait_gone

CALL_LIMIT = 10.0  # seconds that any call may take
START_TIMEOUT = 9.0  # seconds until a new process answers
STATUS_TIMEOUT = 4.0  # seconds for an answer to the question whether it is there
STOP_TIMEOUT = 3.0  # seconds for a process to end after it was told to
HUNG_TIMEOUT = 15.0  # seconds without an answer until a process is killed
POLL_INTERVAL = 0.01  # seconds
LOG_LIMIT = 1 << 20  # bytes
NOBODY = (errno.ENOENT, errno.ECONNREFUSED)
"""What a connection fails with when no process listens."""


class UdpError(FlatmeshError, OSError):
    """The data-plane process can't be had; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(slots=True)
class UdpLifecycle:
    """The data-plane process of one run directory. One thread at a time."""

    files: UdpFiles
    _child: subprocess.Popen[bytes] | None = None
    """The process that we started, until it has ended: nobody else can wait for it."""
    _silent_since: float | None = field(default=None)
    """When a process that holds the lock first did not answer (monotonic)."""

    def status(self) -> dict[str, Any] | None:
        """What the process says; None when there is none, or one that has to be replaced.

        Raises ControlError while a process is there and does not answer.
        """
        self._reap()
        try:
            answer = call(self.files, {"op": "status"}, STATUS_TIMEOUT)
        except ControlError as error:
            now = time.monotonic()
            if error.errno not in NOBODY and holder(self.files) is not None:
                self._silent_since = self._silent_since or now
                if now - self._silent_since < HUNG_TIMEOUT:
                    raise
            return None
        self._silent_since = None
        return answer

    def start(self, *how: str, instead_of: int | None = None) -> None:
        """Start a process, and wait until it answers; `instead_of` is the pid it takes over from.

        Raises UdpError.
        """
        make_private_directory(self.files.run_dir)
        with open(self.files.log, "wb", opener=open_private) as output:
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-m", "flannel.udp.process"),
                    *("--run-dir", str(self.files.run_dir)),
                    *how,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers(instead_of, deadline):
            if self._reap():
                raise UdpError(f"udp data plane: {self._last_line()}")
            if time.monotonic() > deadline:
                raise UdpError(
                    errno.ETIMEDOUT, f"the udp data plane does not answer: {self._last_line()}"
                )
            time.sleep(POLL_INTERVAL)
        self._silent_since = None

    def stop(self) -> None:
        """End whatever process there is; one that was silent for too long is killed at once.

        Raises ControlError.
        """
        if holder(self.files) is None:
            return
        if self._silent_since is None:
            try:
                call(self.files, {"op": "stop"}, STOP_TIMEOUT)
            except ControlError:
                pass  # it hangs, or its socket is gone
            else:
                if wait_gone(self.files, time.monotonic() + STOP_TIMEOUT):
                    return
            end(self.files)
        else:
            kill(self.files)
        self._silent_since = None
        self._reap()

    def trim_log(self) -> None:
        """Empty a log that has grown large. Raises OSError."""
        if self.files.log.exists() and self.files.log.stat().st_size > LOG_LIMIT:
            os.truncate(self.files.log, 0)

    def _answers(self, instead_of: int | None, deadline: float) -> bool:
        left = max(deadline - time.monotonic(), POLL_INTERVAL)
        try:
            answer = call(self.files, {"op": "status"}, min(left, STATUS_TIMEOUT))
        except ControlError:
            return False
        return bool(answer["pid"] != instead_of)

    def _reap(self) -> bool:
        """Whether the process that we started has ended; forgets it then."""
        if self._child is None or self._child.poll() is None:
            return False
        self._child = None
        return True

    def _last_line(self) -> str:
        """What the process last wrote, as one line."""
        try:
            lines = self.files.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        last = lines[-1] if lines else "it wrote nothing"
        return last.removeprefix("udp data plane: ")
