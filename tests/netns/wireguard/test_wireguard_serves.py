# SPDX-License-Identifier: Apache-2.0
"""A running wireguard-go is recognised, however often its descriptors come and go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.netns.wireguard.conftest import Mesh


def test_process_that_serves_is_recognised_while_connections_come_and_go(mesh: Mesh) -> None:
    """Each connection is a descriptor of the process, which /proc lists until it is closed."""
    host = mesh.hosts[0]
    process = host.plane.processes["flannel-wg"]
    stop = threading.Event()

    def connect() -> None:
        while not stop.is_set():
            process.uapi.answers()

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        assert all(process.serves() for _ in range(300))
    finally:
        stop.set()
        thread.join()
