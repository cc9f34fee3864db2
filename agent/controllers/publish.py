# SPDX-License-Identifier: Apache-2.0
"""The publish controller: subnet.env tells the CNI plugins this host's subnets.

Its format is flannel's. It is written before the routes to peers are made, as flanneld does:
whoever sees the routes of a changed cluster config finds the config's subnets and MTU in the
file, and so do pods made then.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from ipam.subnet_env import SubnetEnv, SubnetEnvError

log = logging.getLogger("agent.publish")


@dataclass(slots=True)
class PublishController:
    """Fits `agent.controller.Controller`."""

    subnet_file: Path
    name: str = "publish"
    depends_on: Change = Change.KERNEL | Change.CLOCK
    """They don't change the content; they are occasions to put back a file that was deleted."""
    rereads_on: Change = Change.NONE
    after: tuple[str, ...] = ()
    preferably_after: tuple[str, ...] = ()
    required_for_pods: bool = True
    worker: str = "files"

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> SubnetEnv:
        """The content of subnet.env."""
        del dirty
        host = inputs.host
        mtu = host.backend.mtu(host.underlay)
        return SubnetEnv.of(host.config, host.own, mtu=mtu, ip_masq=host.ip_masq)

    def apply(self, desired: SubnetEnv) -> Report:
        """Write the file if it differs. Raises SubnetEnvError."""
        lines = self._changes(desired)
        if lines:
            try:
                desired.write(self.subnet_file)
            except OSError as error:  # its own text names a temporary file, another each time
                why = f"{self.subnet_file} can't be written: {error.strerror}"
                mend = "CNI plugins read the lease there; mend it, or name another --subnet-file"
                raise SubnetEnvError(f"{why}. {mend}") from None
            log.info("wrote %s", self.subnet_file)
        return Report()

    def _changes(self, desired: SubnetEnv) -> list[str]:
        with contextlib.suppress(OSError, SubnetEnvError):
            if SubnetEnv.read(self.subnet_file) == desired:
                return []
        return [f"# write {self.subnet_file}"]

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """A comment when the file would be written."""
        return self._changes(self.desired(inputs, Dirty(whole=True)))

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """The file stays: pods can be made without a daemon."""

    def cleanup(self) -> list[str]:
        """Remove the file. Raises OSError."""
        self.subnet_file.unlink(missing_ok=True)
        return []
