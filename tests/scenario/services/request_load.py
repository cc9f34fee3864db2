# SPDX-License-Identifier: Apache-2.0
"""Clients that ask a service again and again, each request on a connection of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.scenario.services.service_lab import ServiceLab

PAUSE = 0.01
"""Seconds between a client's requests, so that others on the machine have their turn."""


@dataclass(slots=True)
class RequestLoad:
    """What was asked and answered so far: (time of sending, endpoint or reason)."""

    answers: list[tuple[float, str]] = field(default_factory=list)

    def since(self, moment: float) -> list[str]:
        """The answers to what was sent at `moment` or later."""
        return [name for sent, name in list(self.answers) if sent >= moment]


@contextlib.contextmanager
def load(web: ServiceLab, clients: list[tuple[str, str, int]]) -> Iterator[RequestLoad]:
    """TCP requests of (client, address, port) while the block runs, all at once."""
    stop = threading.Event()
    found = RequestLoad()

    def ask(client: str, address: str, port: int) -> None:
        while not stop.is_set():
            sent = time.monotonic()
            found.answers.append((sent, web.answers(client, address, port, "tcp")[0]))
            stop.wait(PAUSE)

    threads = [threading.Thread(target=ask, args=one, daemon=True) for one in clients]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()
