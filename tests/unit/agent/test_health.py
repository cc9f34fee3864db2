# SPDX-License-Identifier: Apache-2.0
"""The port of /healthz and /metrics beside clients that only hold connections."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent import health

IDLE = 1100
"""More than the 1,024 descriptors that a process usually has."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def port() -> Iterator[int]:
    registry = CollectorRegistry()
    Counter("pods", "Of a test.", registry=registry).inc()
    chosen = free_port()
    stop = health.serve("127.0.0.1", chosen, registry, lambda: True, lambda: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        yield chosen
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stop()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HT"], ids=["idle", "half a request"])
def test_idle_connections_keep_nobody_waiting(port: int, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            client.sendall(sent)
        started = time.monotonic()
        assert get(port, "/healthz") == "ok\n"
        assert "pods_total 1.0" in get(port, "/metrics")
        assert time.monotonic() - started < 4  # less than an idle connection may last
        deadline = time.monotonic() + 10
        while threading.active_count() > health.MAX_CONNECTIONS + 10:
            assert time.monotonic() < deadline, "threads of idle connections do not end"
            time.sleep(0.02)


def test_a_client_that_takes_no_answer_ends(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert get(port, "/readyz") == "ok\n"


def test_a_client_that_sends_a_byte_now_and_then_ends(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_TIMEOUT", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        deadline = time.monotonic() + 10
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                client.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() < deadline
    assert get(port, "/healthz") == "ok\n"


def test_the_port_serves_ipv6(port: int) -> None:
    del port
    chosen = free_port()
    stop = health.serve("::1", chosen, CollectorRegistry(), lambda: True, lambda: "why")
    try:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"http://[::1]:{chosen}/readyz", timeout=5)
        assert refusal.value.code == 503
        assert refusal.value.read() == b"why\n"
    finally:
        stop()
