# SPDX-License-Identifier: Apache-2.0
"""A listening socket that is opened again when somebody removes its file, or the directory."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from base.errors import FlatmeshError, one_line
from cni.socket.shared_listener import RETRY_INTERVAL, SharedListener

CHECK_INTERVAL = 1.0
"""Seconds between two looks whether the socket's file is there, and still ours."""

log = logging.getLogger("cni")


class KeptListener:
    """One thread runs `keep`, others iterate over `connections`; any may `end` it.

    `close` it when they have returned.
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        """`complain` is told why it can't be opened now, once for each new reason."""
        self.path = path
        self._complain = complain
        self._said = ""
        self._closing = threading.Event()
        self._current: SharedListener | None = None
        self._replaced: list[SharedListener] = []
        """Those whose file is gone; closed in the end, when no thread can use them any more."""

    def open(self) -> None:
        """Listen. Raises CniServerError, OSError."""
        self._current = SharedListener(self.path)

    def look(self) -> None:
        """Listen where nothing does so at the path; what fails is complained of."""
        before = self._current
        if before is not None and before.is_at_its_path():
            return
        try:
            self.open()
        except (FlatmeshError, OSError) as error:  # another daemon's, or a full file system
            if self._said != (said := one_line(error)):
                self._complain(said)
            self._said = said
            return
        self._said = ""
        if before is not None:
            log.info("socket %s was removed: listening again", self.path)
            before.end()  # each thread turns to the new one
            self._replaced.append(before)

    def keep(self) -> None:
        """Look now and then, until `end`."""
        while not self._closing.wait(CHECK_INTERVAL):
            self.look()

    def connections(self) -> Iterator[socket.socket]:
        """Each connection that this thread shall serve, until `end`."""
        while not self._closing.is_set():
            current = self._current
            if current is None:
                self._closing.wait(CHECK_INTERVAL)
                continue
            try:
                yield from current.connections()
            except OSError:  # no descriptor is left to wait with
                self._closing.wait(RETRY_INTERVAL)

    def end(self) -> None:
        """Take no more connections, and remove the file if it is ours, not a successor's."""
        self._closing.set()
        current = self._current
        if current is not None:
            if current.is_at_its_path():
                self.path.unlink(missing_ok=True)
            current.end()

    def close(self) -> None:
        """Close the descriptors, which no thread may be using any more. Again is harmless."""
        for one in (self._current, *self._replaced):
            if one is not None:
                one.close()
        self._current = None
        self._replaced.clear()
