"""The forwarding controller: forwarding is on, and what leaves the cluster is masqueraded."""

from __future__ import annotations

import logging

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from agent.kernel_applier import StateApplier
from backend.metric_sample import MetricSample
from flannel import masquerade
from hostnet.state import HostState
from hostnet.sysctl import Sysctl

log = logging.getLogger("agent.forwarding")
IPV4_FORWARD = Sysctl("net/ipv4/ip_forward", "1")
IPV6_FORWARD = Sysctl("net/ipv6/conf/all/forwarding", "1")


class ForwardingController:
    """Fits `agent.controller.Controller`."""

    name = "forwarding"
    depends_on = Change.NFTABLES
    rereads_on = Change.NFTABLES
    after = ()
    preferably_after = ()
    required_for_pods = True
    worker = "forwarding"

    def __init__(self, applier: StateApplier) -> None:
        """Take an applier of the forwarding's owner; `close` closes it."""
        self._applier = applier

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> HostState:
        """Two sysctls at most, and one nftables table."""
        del dirty
        host = inputs.host
        sysctls = [IPV4_FORWARD] * (host.own.subnet is not None)
        sysctls += [IPV6_FORWARD] * (host.own.ipv6_subnet is not None)
        table = masquerade.table(host.config, host.own, masquerade=host.ip_masq)
        return HostState(sysctls=frozenset(sysctls), tables=frozenset([table]))

    def apply(self, desired: HostState) -> Report:
        """Read both, and write what differs."""
        return self._applier.apply((None, desired))

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands."""
        return self._applier.plan(self.desired(inputs, Dirty(whole=True)))

    def status(self) -> str | None:
        """Nothing to ask: what the kernel refused is in the report."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Close the sockets."""
        self._applier.close()

    def cleanup(self) -> list[str]:
        """Remove the table; forwarding stays on, as others may rely on it by now."""
        return self._applier.cleanup(log.info)
