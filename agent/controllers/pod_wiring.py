# SPDX-License-Identifier: Apache-2.0
"""The pod wiring controller: pods stay connected to their bridge, and the bridge to the host.

CNI calls make the bridge and the pods' ports themselves. This repairs what others have changed
since: by the records of the attachments, at the kernel's message or a few seconds later.
"""

from __future__ import annotations

import time

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from base.paths import ADDRESS_STORE
from cni.attachment.store import AttachmentStore
from cni.host import PluginHost
from cni.wiring import firewall
from cni.wiring.mend import Rewired, rewire
from hostnet.kinds.foreign.pod_links import PodLinkWatch

PAUSE = 0.3
"""Seconds between two comparisons: a bridge that is deleted changes all of its ports."""


class PodWiringController:
    """Fits `agent.controller.Controller`."""

    name = "pod wiring"
    depends_on = Change.POD_LINKS | Change.CLOCK
    rereads_on = Change.NONE
    """Every apply compares all of it."""
    after = ()
    preferably_after = ()
    required_for_pods = False
    worker = "pod wiring"

    def __init__(self, watch: PodLinkWatch, host: PluginHost) -> None:
        """Take the watch, which `close` closes; `host` has the records."""
        self._watch = watch
        self._host = host
        self._looked = 0.0

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> int:
        """The MTU of new pods; the rest say the records, when they are read."""
        del dirty
        return inputs.host.backend.mtu(inputs.host.underlay)

    def apply(self, desired: int) -> Report:
        """Compare and change. Raises NetlinkError, CniError."""
        time.sleep(max(0.0, self._looked + PAUSE - time.monotonic()))
        done = self._rewire(desired, plan=False)
        if done.any_pods:
            lines, failures = firewall.restore(self._host)
            done.lines += lines
            done.failures += failures
        self._watch.bridges = done.bridges
        self._looked = time.monotonic()
        return Report(len(done.lines), lambda: done.lines, done.failures)

    def _rewire(self, mtu: int, *, plan: bool) -> Rewired:
        if not (self._host.state_dir / ADDRESS_STORE).exists():
            return Rewired()  # no pod yet; to ask would make the file
        return rewire(AttachmentStore(self._host).records(), mtu=mtu, plan=plan)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """What differs, as comments."""
        return self._rewire(self.desired(inputs, Dirty()), plan=True).lines

    def status(self) -> str | None:
        """Nothing to ask: what could not be mended is in the report."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Stop watching; pods stay connected."""
        self._watch.close()

    def cleanup(self) -> list[str]:
        """Nothing: pods' links go with the pods (`cni.cleanup`)."""
        return []
