# SPDX-License-Identifier: Apache-2.0
"""Deletions that the address store could not take: full, read-only or damaged.

A DEL takes down the pod all the same, and what it can't write into the store it writes here, into
the run directory, which is in memory. Who uses the store next makes up for it, before an address
is given. One file per deletion; a reboot, which frees all addresses, clears them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from base.paths import DELETED_DIR
from base.private_files import make_private_directory, write_private
from cni.config.call import AttachmentKey

LOCK = "lock"


class Deletion(NamedTuple):
    """One that is not in the store yet."""

    store: str
    """The store's file."""
    plugin: str
    """Which of our plugins made the attachment; empty: unknown."""
    key: AttachmentKey


class DeletionJournal:
    """The journal of one run directory. Any thread and process may use it."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = f"{run_dir}/{DELETED_DIR}"

    def add(self, deletion: Deletion) -> None:
        """Write it down; again is harmless. Raises OSError."""
        make_private_directory(self._directory)
        text = json.dumps([deletion.store, deletion.plugin, *deletion.key])
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        write_private(f"{self._directory}/{name}", text)

    def replay(self, store: Path, do: Callable[[Deletion], None]) -> None:
        """Call `do` for each deletion of this store, and forget those for which it returns.

        It is done by one process at a time: a deletion that is made up for late would delete
        what was added meanwhile. Raises OSError, and what `do` raises.
        """
        if not self._names():
            return
        descriptor = os.open(f"{self._directory}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for name in self._names():
                path = Path(self._directory, name)
                deletion = _read(path)
                if deletion is None or deletion.store != str(store):
                    continue
                do(deletion)
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - in each ADD: 2 us
        except OSError:
            return []
        return [name for name in names if name != LOCK and "." not in name]


def _read(path: Path) -> Deletion | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        store, plugin, *key = json.loads(path.read_text())
        return Deletion(store, plugin, AttachmentKey(*key))
    return None
