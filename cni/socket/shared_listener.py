# SPDX-License-Identifier: Apache-2.0
"""One listening socket, and many threads that take connections from it.

The kernel wakes one thread per connection: with EPOLLEXCLUSIVE (epoll_ctl(2)) the one that has
waited the shortest, whose memory and SQLite pages are still in the processor's caches. Threads
blocked in accept() would take turns; an ADD and a DEL then take a quarter more processor time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cni.socket.listener import open_listener

RETRY_INTERVAL = 0.05  # seconds after accept() failed for lack of descriptors


class SharedListener:
    """Threads iterate over `connections`; any may `end` it. `close` it when all have returned."""

    def __init__(self, path: Path) -> None:
        """Listen at this path. Raises CniServerError, OSError."""
        self._path = path
        self._socket = open_listener(path)
        self._socket.setblocking(False)
        self._inode = path.stat().st_ino
        # readable for ever once it is written: unlike the listener's end it wakes every thread
        self._ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._spare = os.dup(self._ended)
        self._spare_lock = threading.Lock()

    def is_at_its_path(self) -> bool:
        """Whether the socket's file is there, and still this socket's."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def connections(self) -> Iterator[socket.socket]:
        """Each connection that this thread shall serve, until `end`. Raises OSError."""
        with select.epoll() as ready:
            ready.register(self._ended, select.EPOLLIN)
            ready.register(self._socket, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            while True:
                if any(descriptor == self._ended for descriptor, _ in ready.poll()):
                    return
                try:
                    connection, _ = self._socket.accept()
                except BlockingIOError:
                    continue  # another thread was faster
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.EBADF):
                        return
                    if not self._refuse_one():
                        time.sleep(RETRY_INTERVAL)
                    continue
                yield connection

    def _refuse_one(self) -> bool:
        """Close a connection with the spare descriptor, as there is no other left.

        Its client then answers the call in its own process; in the backlog it would wait. Returns
        whether there was one.
        """
        with self._spare_lock:
            self._close_spare()
            try:
                self._socket.accept()[0].close()
            except OSError:
                return False
            finally:
                with contextlib.suppress(OSError):  # a call was faster: the next try gets one
                    self._spare = os.dup(self._ended)
        return True

    def _close_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def end(self) -> None:
        """Take no more connections. Those in the backlog are reset."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        os.eventfd_write(self._ended, 1)

    def close(self) -> None:
        """Close the descriptors, which no thread may be using any more."""
        self._socket.close()
        os.close(self._ended)
        self._close_spare()
