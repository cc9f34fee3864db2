# SPDX-License-Identifier: Apache-2.0
"""TCP connections one after the other, and how long each takes.

    python -m bench.connection_rate serve PORT...
    python -m bench.connection_rate connect ADDRESS PORT SECONDS

A connection is opened, the server's port comes back, and it is closed with a reset: no socket
waits for late segments. Client and server are processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import statistics
import struct
import time

import click

NO_LINGER = struct.pack("ii", 1, 0)  # struct linger: a reset instead of FIN
TIMEOUT = 5.0  # seconds


@click.group()
def main() -> None:
    """Open connections, or answer them."""


@main.command()
@click.argument("ports", type=int, nargs=-1)
def serve(ports: tuple[int, ...]) -> None:
    """Answer on PORTS until terminated."""
    with selectors.DefaultSelector() as selector:
        for port in ports:
            server = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
            selector.register(server, selectors.EVENT_READ, (server, b"%d" % port))
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                server, answer = key.data
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.send(answer)


@main.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("seconds", type=float)
def connect(address: str, port: int, seconds: float) -> None:
    """Print the number of connections in SECONDS, and the median of one in microseconds."""
    times = []
    begin = now = time.perf_counter()
    while now < begin + seconds:
        with socket.create_connection((address, port), TIMEOUT) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            one.recv(5)
        before, now = now, time.perf_counter()
        times.append(now - before)
    answer = {"rate": len(times) / (now - begin), "median": statistics.median(times) * 1e6}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
