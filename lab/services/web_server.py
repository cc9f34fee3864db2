# SPDX-License-Identifier: Apache-2.0
"""A tiny web server: `python -m lab.services.web_server NAME PORT`.

It answers any GET with a JSON object: its name, and the address that it saw the client under.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebHandler(BaseHTTPRequestHandler):
    """One request."""

    timeout = 10.0  # seconds

    def do_GET(self) -> None:
        """Answer it."""
        seen = str(self.client_address[0]).removeprefix("::ffff:")
        body = json.dumps({"name": sys.argv[1], "client": seen}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class WebServer(ThreadingHTTPServer):
    """Both families where there is IPv6."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self) -> None:
        """Take IPv4, too."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    WebServer(("", int(sys.argv[2])), WebHandler).serve_forever()
