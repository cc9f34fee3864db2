# SPDX-License-Identifier: Apache-2.0
"""HTTP on a unix socket, as dockerd's plugin client speaks it: POST, JSON in and out.

Bounded: WORKERS threads, a limit for a body, a deadline for each read. One call per connection.
"""

from __future__ import annotations

import json
import logging
import os
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError, one_line
from base.private_files import PRIVATE_FILE
from docker_plugin.request import Call, DockerCallError

log = logging.getLogger("docker")
CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
WORKERS = 8
MAX_BODY = 256 * 1024
"""Bytes. A call of dockerd's takes one or two thousand."""
READ_TIMEOUT = 10.0
"""Seconds that a client may take to send more."""
Answer = Callable[[Call], Mapping[str, Any]]


class Handler(BaseHTTPRequestHandler):
    """One call."""

    server: DockerSocket
    timeout = READ_TIMEOUT
    server_version = "flatmesh"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer with the driver's answer, or with one line in `Err`."""
        answer = self.server.answers.get(self.path)
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, _refusal(f"no call {self.path[:100]} in this driver"))
            return
        try:
            content = dict(answer(Call.parse(self._body())))
        except (FlatmeshError, OSError) as error:
            log.warning("%s: %s", self.path, one_line(error))
            content = _refusal(one_line(error))
        except Exception:
            log.exception("%s failed", self.path)
            content = _refusal(f"{self.path}: unexpected failure; flatmeshd's log has the details")
        self._send(HTTPStatus.OK, content)

    def _body(self) -> bytes:
        try:
            size = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            size = -1
        if not 0 <= size <= MAX_BODY or self.headers.get("Transfer-Encoding"):
            raise DockerCallError(f"the call's body must have a length of at most {MAX_BODY} bytes")
        return self.rfile.read(size)

    def _send(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def address_string(self) -> str:
        """A unix socket's client has none."""
        return "dockerd"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Each call, for whoever debugs."""
        log.debug(format, *args)


def _refusal(why: str) -> dict[str, Any]:
    """An error: network drivers say it in `Err`, IPAM drivers in `Error`."""
    return {"Err": why, "Error": why}


class DockerSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a path that is root's alone. Raises OSError."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        """Replace a socket that a killed daemon left; `answers` by path of the call."""
        self.answers = answers
        self._free = threading.BoundedSemaphore(WORKERS)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")  # dockerd looks for *.sock
        temporary.unlink(missing_ok=True)
        super().__init__(str(temporary), Handler)
        temporary.chmod(PRIVATE_FILE)
        temporary.replace(path)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait until a thread is free: what comes meanwhile waits in the socket's queue."""
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it, and free the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or sends no HTTP."""
        del request, client_address
        log.debug("a call was not served: %s", sys.exc_info()[1])
