"""The publish controller: the files that tell others that pods can be served.

subnet.env      for the CNI plugins, in flannel's format
ready           in the run directory, for whoever waits for the daemon
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from base import paths
from hostnet.count import Count
from ipam.subnet_env import SubnetEnv, SubnetEnvError

log = logging.getLogger("agent.publish")


@dataclass(slots=True)
class PublishController:
    """Fits `agent.controller.Controller`."""

    subnet_file: Path
    run_dir: Path
    name: str = "publish"
    depends_on: Change = Change.LEASES | Change.KERNEL
    after: tuple[str, ...] = ("overlay", "data plane", "forwarding")
    """Pods can be served when all of these have been applied."""
    required_for_pods: bool = True
    worker: str = "publish"

    @property
    def ready_file(self) -> Path:
        """Holds our pid while pods can be served."""
        return self.run_dir / paths.READY_FILE

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> SubnetEnv:
        """The content of subnet.env."""
        del dirty
        host = inputs.host
        mtu = host.backend.mtu(host.underlay)
        return SubnetEnv.of(host.config, host.own, mtu=mtu, ip_masq=host.ip_masq)

    def apply(self, desired: SubnetEnv) -> Report:
        """Write what differs. Raises OSError."""
        lines = self._changes(desired)
        if lines:
            desired.write(self.subnet_file)
            log.info("wrote %s", self.subnet_file)
        if not self.ready_file.exists():
            self.ready_file.write_text(f"{os.getpid()}\n")
            log.info("ready: pods can be served")
        return Report()

    def _changes(self, desired: SubnetEnv) -> list[str]:
        with contextlib.suppress(OSError, SubnetEnvError):
            if SubnetEnv.read(self.subnet_file) == desired:
                return []
        return [f"# write {self.subnet_file}"]

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """A comment when subnet.env would be written."""
        return self._changes(self.desired(inputs, Dirty(whole=True)))

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[Count]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Nobody is served by this daemon any more."""
        self.ready_file.unlink(missing_ok=True)

    def cleanup(self) -> list[str]:
        """Remove both files. Raises OSError."""
        self.close()
        self.subnet_file.unlink(missing_ok=True)
        return []
