# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers to `flatmesh status` and its like: a unix socket for root.

    request   one line of JSON, {"ask": "settings"}, at most MAX_REQUEST bytes
    answer    JSON, {"answer": ...} or {"error": "one line"}; then the connection is closed

It is not the CNI socket: whoever asks here takes no worker from a pod. Each request is served in
a thread of its own, MAX_REQUESTS at a time; one more is told so and closed. A client that sends
nothing, or does not take its answer, is closed after TIMEOUT seconds. Like the CNI socket, this
one has mode 0600, and the user at the other end is checked as well.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError, one_line
from cni.socket.listener import open_listener, peer_user

MAX_REQUEST = 4096
MAX_REQUESTS = 8
TIMEOUT = 1.0
"""Seconds that a client may take to send its request, and again to take its answer."""
SOCKET_CHECK_INTERVAL = 1.0
"""Seconds between two looks whether the socket's file is still ours."""
ACCEPT_RETRY_INTERVAL = 0.05
"""Seconds until accept(2) is tried again after the descriptors have run out."""

Answer = Callable[[Mapping[str, Any]], object]
"""Called in a thread with the request; returns what json can write. Raises FlatmeshError."""

log = logging.getLogger("agent.status")


class StatusServer:
    """Serves one daemon's answers. `start()` it, `close()` it."""

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        """`answers` are by what is asked for."""
        self.path = path
        self._answers = answers
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._inode = 0
        self._said = ""

    def start(self) -> None:
        """Open the socket and serve; one that can't be opened is logged, and tried again."""
        self._listen()
        threading.Thread(target=self._run, name="status-socket", daemon=True).start()

    def close(self) -> None:
        """Stop accepting; what is being answered ends by itself, in daemon threads."""
        self._closing.set()
        with contextlib.suppress(OSError):  # only our own file, not a successor's
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        try:
            listener = open_listener(self.path)
            listener.setblocking(False)
            self._inode = self.path.stat().st_ino
        except (FlatmeshError, OSError) as error:
            if self._said != (said := one_line(error)):
                log.warning("flatmesh status can't ask this daemon: %s", said)
            self._said = said
            return
        before, self._listener, self._said = self._listener, listener, ""
        if before is not None:
            before.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._listener is None or not self._is_ours():
                self._listen()
            listener = self._listener
            if listener is None:
                self._closing.wait(SOCKET_CHECK_INTERVAL)
            elif _readable(listener, SOCKET_CHECK_INTERVAL):
                self._accept(listener)
        if self._listener is not None:
            self._listener.close()

    def _is_ours(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left
            self._closing.wait(ACCEPT_RETRY_INTERVAL)
            return
        connection.settimeout(TIMEOUT)
        user = peer_user(connection)
        if user not in (0, os.geteuid()):
            log.warning("refused who asks for the status: it runs as user %s", user)
            connection.close()
        elif self._free.acquire(blocking=False):
            threading.Thread(
                target=self._serve, args=[connection], name="status", daemon=True
            ).start()
        else:
            with connection, contextlib.suppress(OSError):
                _send(connection, {"error": "the daemon answers others now; ask again"})

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _send(connection, self._answered(connection))
        except OSError as error:
            log.debug("who asked for the status: %s", error)
        finally:
            self._free.release()

    def _answered(self, connection: socket.socket) -> dict[str, object]:
        try:
            request = json.loads(_line(connection))
            answer = self._answers.get(str(request["ask"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": f"no request: at most {MAX_REQUEST} bytes, a line of JSON with 'ask'"}
        if answer is None:
            return {"error": f"this daemon answers {', '.join(self._answers)} only"}
        try:
            return {"answer": answer(request)}
        except (FlatmeshError, OSError) as error:
            return {"error": one_line(error)}
        except Exception:
            log.exception("status request")
            return {"error": "a fault in the daemon; its log has the traceback"}


def _line(connection: socket.socket) -> bytes:
    """A line, or what came before the end. Raises OSError when it takes too long."""
    data, deadline = b"", time.monotonic() + TIMEOUT
    while b"\n" not in data and len(data) <= MAX_REQUEST:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        more = connection.recv(MAX_REQUEST)
        if not more:
            break
        data += more
    if len(data) > MAX_REQUEST:
        raise ValueError("too long")
    return data


def _send(connection: socket.socket, answer: Mapping[str, object]) -> None:
    data = json.dumps(answer).encode()
    connection.settimeout(TIMEOUT)
    connection.sendall(data)


def _readable(listener: socket.socket, timeout: float) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
