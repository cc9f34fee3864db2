# SPDX-License-Identifier: Apache-2.0
"""Forks supervisors, quickly: a process with everything imported and without threads.

The worker itself must not fork (gRPC's threads), and starting Python for each pod costs some
60 ms. Each line on stdin is a pod's directory; each line on stdout is a pod's directory and
what went wrong, if anything. It ends with its stdin; the supervisors go on, as processes of
their own sessions.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from scheduler.runtime.process.supervisor import Supervisor

LOG = "supervisor.log"


def main() -> None:
    """Serve the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        directory = Path(line.rstrip("\n"))
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                _supervise(directory)
            os._exit(0)
        os.waitpid(pid, 0)


def _supervise(directory: Path) -> NoReturn:
    answer = os.dup(1)
    code = 1
    try:
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor, target in ((null, 0), (null, 1), (log, 2)):
            os.dup2(descriptor, target)
        os.close(null)
        os.close(log)
        try:
            supervisor = Supervisor(directory)
            supervisor.prepare()
        except Exception as error:
            reason = " ".join(str(error).split())
            os.write(answer, f"{directory}\t{reason or type(error).__name__}\n".encode())
            raise
        os.write(answer, f"{directory}\t\n".encode())
        os.close(answer)
        supervisor.run()
        code = 0
    except BaseException:  # noqa: BLE001 # a fork must not go back into the spawner's loop
        os.write(2, traceback.format_exc().encode())
    os._exit(code)


if __name__ == "__main__":
    main()
