"""One call at a time per attachment, whoever runs it: a daemon's thread or an executable.

A lock is a flock(2) on one of SLOTS files in the run directory, chosen by the attachment's
hash: the kernel gives it back when its holder dies, there is nothing to clean up, and the
number of files is bounded. Whoever holds it and finds an unfinished record knows that its
writer is dead. Each plugin has its own files: `flannel` may wait for `flatmesh`, which may
wait for `flatmesh-ipam`, never the other way round.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cni.errors import IO_FAILURE, TRY_AGAIN_LATER, CniError

if TYPE_CHECKING:
    from cni.host import Host

SLOTS = 256  # files per plugin
PATIENCE = 30.0  # seconds; a delegated ADD may hold it for long
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05  # seconds


@contextlib.contextmanager
def hold(
    host: Host, plugin: str, attachment: tuple[str, str, str], patience: float = PATIENCE
) -> Iterator[None]:
    """Hold the lock of (network, container id, interface name) inside the block.

    Raises CniError: 11 after `patience` seconds, 5 when the run directory can't be used.
    """
    slot = zlib.crc32("\0".join(attachment).encode()) % SLOTS
    directory = f"{host.run_dir}/locks"
    path = f"{directory}/{plugin}.{slot}"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise CniError(IO_FAILURE, f"lock {path}: {error.strerror}") from None
    try:
        if not _try(fd):
            with host.turns.given_up():
                _wait(fd, attachment, patience)
        yield
    finally:
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(fd: int, attachment: tuple[str, str, str], patience: float) -> None:
    deadline, pause = time.monotonic() + patience, FIRST_PAUSE
    while not _try(fd):
        if time.monotonic() > deadline:
            raise CniError(
                TRY_AGAIN_LATER, f"another call for container {attachment[1]} is still at work"
            )
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
