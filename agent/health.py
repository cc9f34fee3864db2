# SPDX-License-Identifier: Apache-2.0
"""/healthz, /readyz and /metrics over HTTP, for probes and Prometheus.

/healthz says that the daemon's event loop runs: 200, or 503 when it has not for a minute.
/readyz says that pods can be served and no controller fails: 200, or 503 with the reason as one
line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from base.errors import FlatmeshError
from hostnet.port_owner import port_owner

STALL_TIMEOUT = 60.0  # seconds without a heartbeat of the event loop that count as stuck
MAX_CONNECTIONS = 32
CONNECTION_TIMEOUT = 5.0
"""Seconds that a client may take for each piece of its request, and of the answer."""
REQUEST_TIMEOUT = 20.0
"""Seconds for a whole request and its answer: a client that sends a byte now and then ends, too."""
ACCEPT_RETRY_INTERVAL = 0.05
"""Seconds until accept(2) is tried again after the descriptors have run out."""
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("agent.health")


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, and at most MAX_CONNECTIONS of them.

    When one more arrives, the one that has been open for longest is closed. A connection that
    asks something is answered within milliseconds, so those are idle or slow ones; whoever holds
    many open keeps nobody else from being answered. To refuse the new one, or to let it wait, was
    tried: then the first to come decide who is served.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._open: dict[socket.socket, float] = {}
        """In the order in which they came; when they did, in monotonic seconds."""
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. Raises OSError; when descriptors have run out, after a pause.

        Without the pause the caller, which finds the connection still waiting, would try again at
        once, for as long as there is none.
        """
        try:
            connection, address = super().get_request()
        except OSError as error:
            if error.errno in NO_ROOM:
                self._close_oldest()
                time.sleep(ACCEPT_RETRY_INTERVAL)
            raise
        connection.settimeout(CONNECTION_TIMEOUT)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread."""
        with self._lock:
            self._open[request] = time.monotonic()
            full = len(self._open) > MAX_CONNECTIONS
        if full:
            self._close_oldest()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close connections that have been open for too long; called twice a second."""
        begun = time.monotonic() - REQUEST_TIMEOUT
        with self._lock:
            late = sum(since < begun for since in self._open.values())
        for _ in range(late):
            self._close_oldest()

    def _close_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest is None:
                return
            del self._open[oldest]
        with contextlib.suppress(OSError):  # its thread, woken by this, closes it
            oldest.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered, or failed."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was too slow, or no thread can be started: for debugging."""
        del request
        log.debug("connection of %s: %s", client_address, sys.exception())


class _Quiet(WSGIRequestHandler):
    timeout = CONNECTION_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Probes come every few seconds: don't log them."""

    def get_stderr(self) -> Any:
        """Where wsgiref writes tracebacks of clients that went away: nowhere."""
        return io.StringIO()


class PortError(FlatmeshError):
    """The port can't be had; one line: which, of what, and who has it."""


def _refused(address: str, port: int, error: OSError) -> str:
    where = f"--healthz-ip {address}, --healthz-port {port}"
    if error.errno == errno.EADDRINUSE:
        owner = port_owner("tcp", port)
        return f"{where}: TCP port {port} is in use by {owner}: stop that, or give another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this host doesn't have the address: give one of its own, or 0.0.0.0"
    return f"{where}: {error.strerror}"


def require_port(address: str, port: int) -> None:
    """Raise PortError when the port can't be had now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except OSError as error:
        raise PortError(_refused(address, port, error)) from None


def serve(
    address: str,
    port: int,
    registry: CollectorRegistry,
    alive: Callable[[], bool],
    problem: Callable[[], str | None],
    more_lines: Callable[[], Iterable[str]] = tuple,
) -> Callable[[], None]:
    """Serve until the returned function is called. Raises PortError when the port can't be had.

    `more_lines` are those that /readyz adds: what is not right, but keeps no pod from being served.
    """
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        if path == "/healthz":
            text = None if alive() else "the daemon's loop is stuck"
        elif path == "/readyz":
            text = problem()
        else:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /healthz, /readyz or /metrics\n"]
        status = "200 OK" if text is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain")])
        more = more_lines() if path == "/readyz" else ()
        return [f"{line}\n".encode() for line in (text or "ok", *more)]

    try:
        server = _Server((address, port), _Quiet)
    except OSError as error:
        raise PortError(_refused(address, port, error)) from None
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
