# SPDX-License-Identifier: Apache-2.0
"""Files and directories that only their owner (root) can use, whatever the caller's umask is.

A file that others can open can also be locked by them: a read lock on the address store fails
every ADD, one on the daemon's lock file keeps it from starting. So our directories are 0700 and
the files in them 0600, also those that an earlier version made with more permissions.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600


def make_private_directory(path: str | os.PathLike[str]) -> None:
    """Make a directory, with its parents, that only we can enter; or close one that is there.

    One that belongs to everybody, as /tmp (the sticky bit is set), or to another user is left as
    it is. Parents that are made get the usual mode. Raises OSError.
    """
    directory = Path(path)
    directory.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    found = directory.stat()
    ours = found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
    if ours and found.st_mode & 0o077:
        directory.chmod(PRIVATE_DIRECTORY)


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file as os.open(2) does and make it ours alone; made with mode 0600 if need be.

    Fits `open(..., opener=open_private)`. A symbolic link is not followed. Raises OSError.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and found.st_mode & 0o177:
            os.fchmod(fd, PRIVATE_FILE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private_file(path: str | os.PathLike[str]) -> None:
    """Make an empty file that is ours alone, or close one that is there, without opening it.

    For SQLite: to close a descriptor of a file ends all fcntl(2) locks that the process has on it,
    also those that other threads' connections hold. Raises OSError.
    """
    file = Path(path)
    try:
        os.mknod(file, stat.S_IFREG | PRIVATE_FILE)
    except FileExistsError:
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o177 and found.st_uid == os.geteuid():
            file.chmod(PRIVATE_FILE)


def write_private(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file's content in one step: a reader sees the old or the new. Raises OSError."""
    temporary = Path(f"{os.fspath(path)}.new")
    with open(temporary, "w", opener=open_private) as file:
        file.write(text)
    temporary.replace(path)
