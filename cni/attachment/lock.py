# SPDX-License-Identifier: Apache-2.0
"""One call at a time per attachment, in whichever process it runs.

A lock is a flock(2) on one of SLOTS files in the run directory, chosen by a hash of the
attachment. The kernel releases it when its holder dies, so there is nothing to clean up, and
the number of files is bounded. Who holds the lock and finds an unfinished record knows that
the process which wrote it is dead.

Each plugin has files of its own, so that no two wait for each other: `flannel` may wait for
`flatmesh`, which may wait for `flatmesh-ipam`, never the other way round.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from base.private_files import make_private_directory
from cni.config.call import AttachmentKey
from cni.errors import IO_FAILURE, TRY_AGAIN_LATER, CniError

if TYPE_CHECKING:
    from cni.host import PluginHost

SLOTS = 256  # files per plugin
LOCK_TIMEOUT = 30.0  # seconds; an ADD with a slow delegated plugin may hold it for long
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05  # seconds between two attempts


@contextlib.contextmanager
def hold_lock(
    host: PluginHost, plugin: str, attachment: AttachmentKey, timeout: float = LOCK_TIMEOUT
) -> Iterator[None]:
    """Hold the attachment's lock inside the block.

    Raises CniError: 11 after `timeout` seconds, 5 when the run directory can't be used.
    """
    slot = zlib.crc32("\0".join(attachment).encode()) % SLOTS
    directory = f"{host.run_dir}/locks"
    path = f"{directory}/{plugin}.{slot}"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            make_private_directory(host.run_dir)
            make_private_directory(directory)
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise CniError(IO_FAILURE, f"lock {path}: {error.strerror}") from None
    try:
        if not _try_lock(fd):
            with host.concurrency.released():
                _wait_for_lock(fd, attachment, timeout)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold_lock_if_possible(
    host: PluginHost, plugin: str, attachment: AttachmentKey
) -> Iterator[None]:
    """Like `hold_lock`, but inside the block without it where the run directory can't be used.

    For DEL, which has to take down what it can. Raises CniError (11).
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(host, plugin, attachment))
        except CniError as error:
            if error.code != IO_FAILURE:
                raise
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(fd: int, attachment: AttachmentKey, timeout: float) -> None:
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while not _try_lock(fd):
        if time.monotonic() > deadline:
            raise CniError(
                TRY_AGAIN_LATER,
                f"another call for container {attachment.container_id} is still at work",
            )
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
