# SPDX-License-Identifier: Apache-2.0
"""One container as its pod's supervisor holds it: started, fed to its log, ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import capabilities, linux
from scheduler.runtime.process.cgroup import Cgroups
from scheduler.runtime.process.child import Command, Streams, start
from scheduler.runtime.process.log_file import LogFile
from scheduler.runtime.process.root import RootPlan, enter_root
from scheduler.runtime.protocol import ContainerConfig, ContainerState

CHUNK = 64 * 1024


@dataclass(slots=True)
class Supervised:
    """A container, its pipes and what is known of it."""

    config: ContainerConfig
    cgroup: str
    log: LogFile
    state: ContainerState = ContainerState.CREATED
    pid: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    outputs: dict[int, str] = field(default_factory=dict)
    """Descriptors that its output arrives on, and the name of the stream."""
    kill_at: float = 0.0
    """When it gets SIGKILL; 0: not."""

    def status(self) -> dict[str, Any]:
        """As the worker reads it."""
        return {
            "name": self.config.name,
            "state": str(self.state),
            "pid": self.pid,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "exit_code": self.exit_code,
            "oom_killed": self.oom_killed,
            "error": self.error,
        }

    def start(
        self, cgroups: Cgroups, scratch: Path, etc: tuple[tuple[str, str], ...], hidden: list[Path]
    ) -> None:
        """Run its command; a failure is in its status afterwards."""
        config = self.config
        try:
            command = Command(
                (*config.command, *config.args),
                config.env,
                config.user,
                config.groups,
                config.workdir,
                capabilities.mask(config.cap_add, config.cap_drop),
                config.init is not False,
                config.tty,
            )
            cgroups.create(self.cgroup, config.limits)
            plan = RootPlan(config, scratch, etc, tuple(hidden))
            self._fork(command, plan, cgroups)
        except (OSError, RuntimeCallError) as error:
            self.fail(126, str(error))

    def _fork(self, command: Command, plan: RootPlan, cgroups: Cgroups) -> None:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if command.tty:
            master, slave = os.openpty()
            given, kept = [null, slave], {master: "stdout"}
            streams = Streams(slave, slave, slave)
        else:
            (out, to_out), (err, to_err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
            given, kept = [null, to_out, to_err], {out: "stdout", err: "stderr"}
            streams = Streams(null, to_out, to_err)

        def prepare() -> None:
            cgroups.join(self.cgroup)
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWCGROUP)
            enter_root(plan)

        try:
            linux.unshare(linux.CLONE_NEWPID)
            try:
                self.pid, errors = start(command, streams, prepare)
            finally:
                linux.setns(own, linux.CLONE_NEWPID)  # the next container gets its own
        finally:
            for descriptor in (own, *given):
                os.close(descriptor)
        self.outputs = kept
        for descriptor in kept:
            os.set_blocking(descriptor, False)
        with os.fdopen(errors, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        self.started_at = time.time()
        self.state = ContainerState.RUNNING
        if problem:
            code, _, self.error = problem.partition(" ")
            self.exit_code = int(code)

    def fail(self, code: int, error: str) -> None:
        """It never ran."""
        self.state, self.exit_code, self.error = ContainerState.EXITED, code, error
        self.finished_at = time.time()

    def read(self, descriptor: int) -> bool:
        """Take output; False: that stream has ended."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # a terminal whose last process has gone
            data = b""
        if data:
            self.log.write(self.outputs[descriptor], data)
            return True
        del self.outputs[descriptor]
        os.close(descriptor)
        return False

    def ended(self, status: int, cgroups: Cgroups) -> None:
        """Its first process has gone; with it went all others of its pid namespace."""
        code = os.waitstatus_to_exitcode(status)
        self.exit_code = code if code >= 0 else 128 - code
        self.finished_at = time.time()
        self.state, self.pid, self.kill_at = ContainerState.EXITED, 0, 0.0
        self.oom_killed = cgroups.oom_kills(self.cgroup) > 0
        for descriptor in list(self.outputs):
            while self.read(descriptor) and descriptor in self.outputs:
                if not _readable(descriptor):
                    break
            if descriptor in self.outputs:
                del self.outputs[descriptor]
                os.close(descriptor)
        self.log.finish()

    def signal(self, number: int) -> None:
        """Send its first process a signal."""
        if self.state is ContainerState.RUNNING:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, grace: float) -> None:
        """Its stop signal now, SIGKILL after the grace period."""
        if self.state is ContainerState.RUNNING and not self.kill_at:
            self.kill_at = time.monotonic() + grace
            self.signal(signal_number(self.config.stop_signal))


def _readable(descriptor: int) -> bool:

    return bool(select.select([descriptor], [], [], 0)[0])


def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM` or `15`; raises RuntimeCallError for what is no signal."""
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    upper = name.upper()
    try:
        return int(signal.Signals[upper if upper.startswith("SIG") else f"SIG{upper}"])
    except KeyError:
        raise RuntimeCallError(
            f"{name!r} is no signal: use a name like SIGTERM or a number"
        ) from None
