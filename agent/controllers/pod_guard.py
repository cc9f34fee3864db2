# SPDX-License-Identifier: Apache-2.0
"""The pod guard controller: what pods may send, and that their gateways take no routes from them.

CNI calls add and delete a pod's elements themselves. This repairs what others have changed, takes
away what a killed call has left, and keeps the sysctls of the pods' gateways.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from agent.controller import Change, Dirty, Report
from agent.inputs import HostInputs, ReconcileInputs
from backend.metric_sample import MetricSample
from base.paths import ADDRESS_STORE
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.host import PluginHost
from cni.pod import guard_reconcile, source_guard
from hostnet import link_sysctls, sysctl
from hostnet.kinds.link import Link
from hostnet.nft.messages import FAMILIES, NFT_MSG_NEWSETELEM
from hostnet.nft.watch import NftWatch
from hostnet.sysctl import Sysctl

log = logging.getLogger("agent.pod_guard")
GATEWAYS = frozenset({"kbr0", "obr0"})
"""Devices that pods have as their gateway, as far as they are there; other bridges are recorded."""
HOST_FORWARDING = {"ipv4": "net/ipv4/ip_forward", "ipv6": "net/ipv6/conf/all/forwarding"}
PAUSE = 0.3
"""Seconds between two comparisons: each DEL is a reason for one."""


def concerns_guard(kind: int, family: int, table: str) -> bool:
    """Whether the guard's table lost something. Fits `hostnet.nft.watch.Concerns`.

    That elements came is no reason to look: each ADD adds some, and one too many allows nothing
    that is not allowed to somebody.
    """
    ours = (family, table) == (FAMILIES[source_guard.FAMILY], source_guard.TABLE)
    return ours and kind != NFT_MSG_NEWSETELEM


class PodGuardController:
    """Fits `agent.controller.Controller`."""

    name = "pod guard"
    depends_on = Change.GUARD | Change.CLOCK
    rereads_on = Change.GUARD
    after = ()
    preferably_after = ()
    required_for_pods = False
    worker = "pod guard"

    def __init__(self, watch: NftWatch, host: PluginHost) -> None:
        """Take the watch, which `close` closes; `host` has the records."""
        self._watch = watch
        self._host = host
        self._looked = 0.0
        self._bridges: frozenset[str] = frozenset()
        """Those that pods were attached to at the last comparison."""
        self._arrivals: frozenset[str] = frozenset()
        """Devices by which packets for pods arrive from other hosts."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> bool:
        """Whether the nftables table is compared, too: the records say what is wanted in it."""
        self._arrivals = arrival_devices(inputs.host)
        return dirty.whole

    def apply(self, desired: bool) -> Report:
        """Compare and change. Raises NftError, NetlinkError, CniError."""
        lines: list[str] = []
        if desired:
            time.sleep(max(0.0, self._looked + PAUSE - time.monotonic()))
            lines = guard_reconcile.reconcile(self._records)
            self._looked = time.monotonic()
        wrong = self._wrong_sysctls()
        errors = sysctl.write(wrong)
        lines += [sysctl.line(one) for one in wrong]
        failures = [f"{sysctl.line(one)}: {error.strerror}" for one, error in errors.items()]
        return Report(len(lines), lambda: lines, failures)

    def _records(self) -> Iterable[AttachmentRecord]:
        if not (self._host.state_dir / ADDRESS_STORE).exists():
            return []  # no pod yet; to ask would make the file
        records = AttachmentStore(self._host).records()
        guards = [record.metadata.get(source_guard.RECORDED) for record in records]
        names = {str(one.get("bridge", "")) for one in guards if isinstance(one, dict)}
        self._bridges = frozenset(names - {""})
        return records

    def _wrong_sysctls(self) -> list[Sysctl]:
        wanted = {
            one.path: one
            for name in sorted(GATEWAYS | self._bridges)
            for one in link_sysctls.of_gateway(name)
        }
        forwarding = GATEWAYS | self._bridges | self._arrivals
        wanted |= {one.path: one for one in _forwarding(sorted(forwarding))}
        found = sysctl.read(wanted.values())
        return [wanted[one.path] for one in found if one != wanted[one.path]]

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands."""
        self._arrivals = arrival_devices(inputs.host)
        lines = guard_reconcile.reconcile(self._records, plan=True)
        return lines + [sysctl.line(one) for one in self._wrong_sysctls()]

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """What was refused, by pod."""
        text = "Packets of a pod that were refused: not its addresses, or only routers send such"
        return [
            MetricSample(
                "pod_refused_packets",
                text,
                packets,
                {"network": key.network, "container": key.container_id, "ifname": key.ifname},
            )
            for key, packets in guard_reconcile.refused_packets(self._records()).items()
        ]

    def close(self) -> None:
        """Stop watching; the table stays."""
        self._watch.close()

    def cleanup(self) -> list[str]:
        """Nothing: the table goes with the pods (`cni.cleanup`)."""
        return []


def arrival_devices(host: HostInputs) -> frozenset[str]:
    """The backend's tunnel devices; the underlay's where packets come without a tunnel."""
    backend = host.backend
    base = backend.base(host.own, host.underlay)
    names = {link.name for link in base.of(Link) if link.kind != "veth"}
    return frozenset(names | {host.underlay.link} if backend.arrivals().plain else names)


def _forwarding(devices: Sequence[str]) -> list[Sysctl]:
    """They forward where the host does, whatever the default for new devices is."""
    found = sysctl.read(Sysctl(path, "1") for path in HOST_FORWARDING.values())
    on = {one.path for one in found if one.value == "1"}
    return [
        Sysctl(f"net/{family}/conf/{name}/forwarding", "1")
        for family, path in HOST_FORWARDING.items()
        if path in on
        for name in devices
    ]
