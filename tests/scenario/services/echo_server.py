# SPDX-License-Identifier: Apache-2.0
"""A server in a pod that sends back what it gets, on connections that stay open."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import threading
from collections.abc import Iterator

from hostnet.netns import run_in
from lab.processes import NETNS_DIR


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """As many open files as the process may have at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def echo_server(netns: str, port: int) -> Iterator[None]:
    """TCP and UDP, both families."""
    stop = threading.Event()

    def opened() -> tuple[socket.socket, socket.socket]:
        stream = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
        datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagram.bind(("::", port))
        return stream, datagram

    stream, datagram = run_in(NETNS_DIR / netns, opened)
    with stream, datagram, selectors.DefaultSelector() as selector:

        def answer(one: socket.socket) -> None:
            if one is stream:
                selector.register(one.accept()[0], selectors.EVENT_READ)
            elif one is datagram:
                data, peer = one.recvfrom(65536)
                one.sendto(data, peer)
            elif data := one.recv(65536):
                one.sendall(data)
            else:
                selector.unregister(one)
                one.close()

        def serve() -> None:
            while not stop.is_set():
                for key, _ in selector.select(0.05):
                    if isinstance(key.fileobj, socket.socket):
                        with contextlib.suppress(OSError):
                            answer(key.fileobj)

        for one in (stream, datagram):
            selector.register(one, selectors.EVENT_READ)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
