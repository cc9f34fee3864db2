# SPDX-License-Identifier: Apache-2.0
"""A program that runs a command inside of a running container (`exec`).

Its one argument is the number of a descriptor to read the command from, as JSON, so that no
variable of the command shows in the list of processes. It ends as the command ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import termios
from typing import Any

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import linux
from scheduler.runtime.process.cgroup import Cgroups
from scheduler.runtime.process.child import CANNOT_EXECUTE, NOT_FOUND, Command, execute

KINDS = (
    ("cgroup", linux.CLONE_NEWCGROUP),
    ("ipc", linux.CLONE_NEWIPC),
    ("uts", linux.CLONE_NEWUTS),
    ("net", linux.CLONE_NEWNET),
    ("pid", linux.CLONE_NEWPID),
    ("mnt", linux.CLONE_NEWNS),
)


def main() -> None:
    """Join, fork, execute, wait."""
    with os.fdopen(int(sys.argv[1]), "rb") as source:
        source.seek(0)
        order: dict[str, Any] = json.loads(source.read())
    try:
        Cgroups.found().join(order["cgroup"])
        opened = [
            (os.open(f"/proc/{order['pid']}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
            for name, kind in KINDS
        ]
        for descriptor, kind in opened:
            linux.setns(descriptor, kind)
        os.chdir("/")
    except OSError as error:
        _end(f"the container can't be entered: {error.strerror}", CANNOT_EXECUTE)
    child = os.fork()
    if child == 0:
        _execute(order)

    def forward(got: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, got)

    for forwarded in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(forwarded, forward)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):  # output ends with the command
        os.dup2(null, number)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _execute(order: dict[str, Any]) -> None:
    command = Command(
        tuple(order["argv"]),
        tuple(order["env"]),
        order["user"],
        (),
        order["workdir"],
        order["capabilities"],
        init=False,
        tty=order["tty"],
    )
    try:
        os.setsid()
        os.umask(0o022)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if command.tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 1)
        execute(command)
    except FileNotFoundError as error:
        _end(f"{error.filename}: no such file or directory", NOT_FOUND)
    except OSError as error:
        _end(f"{error.filename or 'exec'}: {error.strerror}", CANNOT_EXECUTE)
    except RuntimeCallError as error:
        _end(str(error), CANNOT_EXECUTE)


def _end(text: str, code: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"exec: {text}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main()
