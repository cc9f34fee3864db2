# SPDX-License-Identifier: Apache-2.0
"""The CNI server of this host, told what the daemon knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.loop import HostController
from agent.settings import Settings
from base.paths import CNI_SOCKET
from cni.host import HostStatus, PluginHost
from cni.plugin_table import import_all
from cni.socket.server import CniServer

CLOSE_TIMEOUT = 2.0
"""Seconds that the end of the daemon waits for CNI calls being served; what they have not done
then, the next DEL, GC or start of the daemon undoes."""


@contextlib.contextmanager
def serve_pods(settings: Settings, host_controller: HostController) -> Iterator[CniServer]:
    """Serve CNI requests inside the block. Raises cni.socket.listener.CniServerError."""
    host = PluginHost(
        settings.run_dir,
        settings.state_dir,
        settings.subnet_file,
        settings.host_local_dir,
        status=lambda: HostStatus(host_controller.problem()),
        on_pods_changed=host_controller.pods_changed,
    )
    import_all()
    server = CniServer(settings.run_dir / CNI_SOCKET, host)
    server.start()
    try:
        yield server
    finally:
        server.close(CLOSE_TIMEOUT)
