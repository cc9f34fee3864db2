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
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError, one_line
from cni.socket.kept_listener import KeptListener
from cni.socket.listener import peer_user

MAX_REQUEST = 4096
MAX_REQUESTS = 8
TIMEOUT = 1.0
"""Seconds that a client may take to send its request, and again to take its answer."""
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
        complain = partial(log.warning, "flatmesh status can't ask this daemon: %s")
        self._listener = KeptListener(path, complain)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the socket and serve; one that can't be opened is logged, and tried again."""
        self._listener.look()
        for name, work in (("status-socket", self._run), ("status-keep", self._listener.keep)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop accepting; what is being answered ends by itself, in daemon threads."""
        self._listener.end()
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._listener.close()

    def _run(self) -> None:
        for connection in self._listener.connections():
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
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
