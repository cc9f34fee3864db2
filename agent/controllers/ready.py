# SPDX-License-Identifier: Apache-2.0
"""The ready controller: a file tells whoever waits for the daemon that pods can be served."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from base import paths
from base.errors import FlatmeshError
from base.private_files import write_private

log = logging.getLogger("agent.ready")


class NotReadyError(FlatmeshError):
    """Pods' packets are not carried."""


@dataclass(slots=True)
class ReadyController:
    """Fits `agent.controller.Controller`."""

    run_dir: Path
    obstacle: Callable[[], str | None]
    """Why pods' packets are not carried."""
    name: str = "ready"
    depends_on: Change = Change.KERNEL | Change.CLOCK
    """They don't change the content; they are occasions to put back a file that was deleted."""
    rereads_on: Change = Change.NONE
    after: tuple[str, ...] = (
        *("publish", "encryption", "devices", "overlay", "forwarding", "data plane"),
        "clear text",
    )
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = True
    worker: str = "files"

    @property
    def file(self) -> Path:
        """It holds the daemon's pid: one that a killed daemon left does not count."""
        return self.run_dir / paths.READY_FILE

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> str:
        """The content of the file."""
        del inputs, dirty
        return f"{os.getpid()}\n"

    def apply(self, desired: str) -> Report:
        """Write the file if there is none; remove it while pods' packets are not carried.

        Raises OSError, and NotReadyError with the reason.
        """
        if (why := self.obstacle()) is not None:
            self.close()
            raise NotReadyError(why)
        if not self.file.exists():
            write_private(self.file, desired)
            log.info("ready: pods can be served")
        return Report()

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """Nothing: only a daemon that runs is ready."""
        del inputs
        return []

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Remove the file, as nobody is served by this daemon any more."""
        self.file.unlink(missing_ok=True)

    def cleanup(self) -> list[str]:
        """Remove the file. Raises OSError."""
        self.close()
        return []
