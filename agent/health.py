"""/healthz, /readyz and /metrics over HTTP, for probes and Prometheus.

/healthz says that the daemon's event loop runs: 200, or 503 when it has not for a minute.
/readyz says that pods can be served and no controller fails: 200, or 503 with the reason as one
line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from http.server import ThreadingHTTPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

STALL_TIMEOUT = 60.0  # seconds without a heartbeat of the event loop that count as stuck


class _Server(ThreadingHTTPServer, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Probes come every few seconds: don't log them."""


def serve(
    address: str,
    port: int,
    registry: CollectorRegistry,
    alive: Callable[[], bool],
    problem: Callable[[], str | None],
) -> Callable[[], None]:
    """Serve until the returned function is called. Raises OSError when the port is taken."""
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
        return [f"{text or 'ok'}\n".encode()]

    server = _Server((address, port), _Quiet)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
