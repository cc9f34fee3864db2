# SPDX-License-Identifier: Apache-2.0
"""Connections to the CNI socket on which nothing has been sent yet.

A client sends its request as soon as it is connected. A connection without one is taken off the
worker that accepted it, so that idle ones, however many, occupy no worker: one thread waits for
all of them. They are closed after a while, and the oldest when there are many.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable

MAX_IDLE = 128
"""Connections; the oldest is closed when one more comes."""
CHECK_INTERVAL = 1.0
"""Seconds between two looks for connections that have been idle for too long."""


class IdleConnections:
    """Keeps them until they are readable, then calls `serve` with each in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None], timeout: float) -> None:
        """`serve` closes the connection; `timeout` is the seconds that one may stay idle."""
        self._serve = serve
        self._timeout = timeout
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._waiting: dict[int, tuple[socket.socket, float]] = {}
        """By descriptor, in the order in which they came: the connection, and when it came."""
        self._closed = False

    def add(self, connection: socket.socket) -> None:
        """Keep a connection. From any thread."""
        surplus = None
        with self._lock:
            if self._closed:
                connection.close()
                return
            if len(self._waiting) >= MAX_IDLE:
                surplus = self._take(next(iter(self._waiting)))
            self._waiting[connection.fileno()] = connection, time.monotonic()
            self._poll.register(connection.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        if surplus is not None:
            surplus.close()

    def run(self) -> None:
        """Wait for them, until `close`."""
        while not self._closed:
            try:
                events = self._poll.poll(CHECK_INTERVAL)
            except (OSError, ValueError):  # closed meanwhile
                return
            for descriptor, _ in events:
                with self._lock:
                    connection = self._take(descriptor)
                if connection is not None:
                    self._start(connection)
            self._close_old()

    def _start(self, connection: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="cni-late", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads: the client answers its call itself
            connection.close()

    def _close_old(self) -> None:
        before = time.monotonic() - self._timeout
        with self._lock:
            old = [fd for fd, (_, came) in self._waiting.items() if came < before]
            connections = [self._take(fd) for fd in old]
        for connection in connections:
            if connection is not None:
                connection.close()

    def _take(self, descriptor: int) -> socket.socket | None:
        """Take one out; the lock is held."""
        connection, _ = self._waiting.pop(descriptor, (None, 0.0))
        if connection is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)
        return connection

    def close(self) -> None:
        """Close all of them, and end `run` within CHECK_INTERVAL. Again is harmless."""
        with self._lock:
            self._closed = True
            connections = [connection for connection, _ in self._waiting.values()]
            self._waiting.clear()
        for connection in connections:
            connection.close()
