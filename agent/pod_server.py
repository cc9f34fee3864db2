# SPDX-License-Identifier: Apache-2.0
"""The CNI server of this host, told what the daemon knows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from agent.loop import HostController
from agent.policy.feed import PolicyFeed
from agent.settings import Settings
from base.paths import CNI_SOCKET
from cni.host import HostStatus, PluginHost
from cni.plugin_table import import_all
from cni.socket.server import CniServer

CLOSE_TIMEOUT = 2.0
"""Seconds that the end of the daemon waits for CNI calls being served; what they have not done
then, the next DEL, GC or start of the daemon undoes."""


@contextlib.contextmanager
def serve_pods(
    settings: Settings, host_controller: HostController, policies: PolicyFeed
) -> Iterator[CniServer]:
    """Serve CNI requests inside the block. Raises cni.socket.listener.CniServerError."""

    def pods_changed() -> threading.Event | None:
        policies.changed("pods")
        return host_controller.pods_changed()

    host = PluginHost(
        settings.run_dir,
        settings.state_dir,
        settings.subnet_file,
        settings.host_local_dir,
        status=lambda: HostStatus(host_controller.problem()),
        on_pods_changed=pods_changed,
        protect_pod=policies.protect if policies.enabled else None,
    )
    import_all()
    server = CniServer(settings.run_dir / CNI_SOCKET, host)
    server.start()
    try:
        yield server
    finally:
        server.close(CLOSE_TIMEOUT)
