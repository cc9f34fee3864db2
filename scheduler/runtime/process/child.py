# SPDX-License-Identifier: Apache-2.0
"""A container's first process, between its fork and its exec.

It runs in a copy of the supervisor, which has one thread. What goes wrong is written into a
pipe that the exec closes, so the supervisor knows whether the command has started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import accounts, capabilities, linux

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CANNOT_EXECUTE = 126
NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Command:
    """What a process of a container executes, and as whom."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    groups: tuple[str, ...]
    workdir: str
    capabilities: int
    init: bool
    tty: bool


@dataclass(frozen=True, slots=True)
class Streams:
    """Descriptors that become standard input, output and error."""

    stdin: int
    stdout: int
    stderr: int


def start(command: Command, streams: Streams, prepare: Callable[[], None]) -> tuple[int, int]:
    """Fork; in the child prepare the root and execute. Returns its pid and the error pipe.

    The pipe says why the command did not start: exit code, a blank, a line. Nothing: it did.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _run(command, streams, prepare, write_end)
    os.close(write_end)
    return pid, read_end


def _run(command: Command, streams: Streams, prepare: Callable[[], None], errors: int) -> NoReturn:
    code = CANNOT_EXECUTE
    try:
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()
        os.umask(0o022)
        for number, descriptor in enumerate((streams.stdin, streams.stdout, streams.stderr)):
            os.dup2(descriptor, number)
        _die_with_parent()
        prepare()
        if command.init:
            child = os.fork()
            if child:
                os.close(errors)
                _init(child)
            _die_with_parent()
            os.setsid()
        if command.tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 1)
        execute(command)
    except FileNotFoundError as error:
        code, text = NOT_FOUND, f"{error.filename}: no such file or directory"
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    except RuntimeCallError as error:
        text = str(error)
    except BaseException as error:  # noqa: BLE001 # a fork of the supervisor must not go on
        text = f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        os.write(errors, f"{code} {text}".encode()[:2000])
    os._exit(code)


def _die_with_parent() -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(env: tuple[str, ...], defaults: Mapping[str, str]) -> dict[str, str]:
    """Variables of a container's process: the image's and the task's over the defaults."""
    found = dict(defaults)
    for item in env:
        name, equals, value = item.partition("=")
        if equals:
            found[name] = value
        else:
            found.pop(name, None)
    return found


def find(program: str, path: str, workdir: str) -> str:
    """The file that a command's first word means."""
    if "/" in program:
        return program
    for directory in path.split(":"):
        candidate = os.path.join(directory or workdir, program)  # noqa: PTH118 # hot path
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112
            return candidate
    raise FileNotFoundError(
        errno.ENOENT, os.strerror(errno.ENOENT), f'exec: "{program}" is not in $PATH'
    )


def execute(command: Command) -> NoReturn:
    """Become the command; raises what keeps it from starting."""
    account = accounts.lookup(command.user, command.groups)
    variables = environment(
        command.env,
        {"PATH": PATH, "HOME": account.home} | ({"TERM": "xterm"} if command.tty else {}),
    )
    workdir = command.workdir or "/"
    if not os.path.isdir(workdir):  # noqa: PTH112
        with contextlib.suppress(OSError):
            os.makedirs(workdir)  # noqa: PTH103
    os.chdir(workdir)
    os.setgroups(account.groups)
    for number in range(capabilities.known_to_kernel()):
        if not command.capabilities >> number & 1:
            linux.prctl(linux.PR_CAPBSET_DROP, number)
    os.setgid(account.gid)
    os.setuid(account.uid)
    if account.uid == 0:  # others have lost all by setuid
        linux.set_capabilities(command.capabilities)
    _die_with_parent()  # a change of the user has cleared it
    if not command.argv:
        raise RuntimeCallError(
            "no command: an image of the runtime `process` has none of its own; say which to run"
        )
    program = find(command.argv[0], variables.get("PATH", PATH), workdir)
    os.execve(program, command.argv, variables)


def _init(child: int) -> NoReturn:
    """As process 1: pass signals on, reap orphans, end as the command ends."""
    linux.prctl(linux.PR_SET_NAME, b"init\0")
    forwarded = set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    forwarded -= {signal.SIGTTIN, signal.SIGTTOU, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE}

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in forwarded:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, forward)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):  # the output ends when the command ends it
        os.dup2(null, number)
    os.closerange(3, 1024)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
