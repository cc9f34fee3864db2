# SPDX-License-Identifier: Apache-2.0
"""Which questions the daemon answers on its status socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.loop import HostController
from agent.settings import Settings
from agent.status.daemon_settings import exported
from agent.status.report import HostReporter
from agent.status.server import StatusServer
from base import paths


@contextlib.contextmanager
def serve_status(settings: Settings, host: HostController) -> Iterator[None]:
    """Answer inside the block. Called in the event loop."""
    reporter = HostReporter(settings, host)
    server = StatusServer(
        settings.run_dir / paths.STATUS_SOCKET,
        {"settings": lambda _: exported(settings), "status": reporter.report},
    )
    server.start()
    try:
        yield
    finally:
        server.close()
