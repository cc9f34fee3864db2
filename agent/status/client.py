# SPDX-License-Identifier: Apache-2.0
"""Asks this host's daemon something: see `agent.status.server` for the protocol.

A daemon that is stopped or stuck accepts a connection and answers nothing, so every wait has an
end, and the two ways in which there is no answer are told apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base import paths
from base.errors import FlatmeshError

TIMEOUT = 1.2
"""Seconds for a whole answer; a daemon that runs gives it within one."""


class NoDaemonError(FlatmeshError):
    """No daemon runs here, or it does not answer; one line says which."""


class RefusedError(FlatmeshError):
    """The daemon's answer is an error; its line."""


def run_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this host's daemon has its sockets."""
    return Path(environment.get("FLATMESH_RUN_DIR") or paths.RUN_DIR)


def ask(directory: Path, what: str, timeout: float = TIMEOUT, **more: object) -> Any:
    """The daemon's answer, decoded. Raises NoDaemonError, RefusedError."""
    path = directory / paths.STATUS_SOCKET
    deadline = time.monotonic() + timeout
    try:
        data = _exchange(path, json.dumps({"ask": what, **more}).encode() + b"\n", deadline)
        answer = json.loads(data)
    except TimeoutError:
        raise NoDaemonError(
            f"flatmeshd does not answer at {path}: it is stopped or stuck; see its log"
        ) from None
    except PermissionError:
        raise NoDaemonError(f"{path} is root's: run it with sudo") from None
    except OSError as error:
        raise NoDaemonError(f"flatmeshd does not run here: {path}: {error.strerror}") from None
    except ValueError:
        raise NoDaemonError(f"flatmeshd closed the connection at {path} unanswered") from None
    if "answer" not in answer:
        raise RefusedError(str(answer.get("error")))
    return answer["answer"]


def _exchange(path: Path, request: bytes, deadline: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        _set_timeout(connection, deadline)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError):  # refused before it was read: the answer says so
            connection.sendall(request)
        parts: list[bytes] = []
        while True:
            _set_timeout(connection, deadline)
            try:
                part = connection.recv(1 << 16)
            except ConnectionResetError:  # it did not read all that we sent
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)


def _set_timeout(connection: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
