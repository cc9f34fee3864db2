# SPDX-License-Identifier: Apache-2.0
"""The network policy controller: which pods of this host may reach whom, and who them.

Without --network-policy it takes away the table that an earlier run left.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from agent.controller import Change, Dirty, Report
from agent.inputs import HostInputs, ReconcileInputs
from agent.policy.feed import PolicyFeed
from backend.metric_sample import MetricSample
from base.paths import ADDRESS_STORE
from cni.attachment.store import AttachmentStore
from cni.config.bridge_config import DEFAULT_BRIDGE
from cni.host import PluginHost
from cni.pod import source_guard
from hostnet.conntrack import bridged
from hostnet.kernel import Kernel
from hostnet.nft.chain_table import ChainTable, ChainTableSocket, changes
from hostnet.nft.counters import read_counters
from hostnet.nft.messages import FAMILIES
from hostnet.nft.names import table_names
from hostnet.ownership import POLICY_TABLE
from ipam.network import NetworkConfig
from ovs_mesh.devices import OBR0
from policy.base_chains import PodNetwork
from policy.model import IPAddress
from policy.table import PolicyTable

log = logging.getLogger("agent.policy")
TABLE = ("inet", POLICY_TABLE)
NO_BRIDGE_NETFILTER = (
    "network policy: pods on one bridge are not kept apart: this kernel has no br_netfilter; run "
    "modprobe br_netfilter on the host"
)


def concerns_policies(kind: int, family: int, table: str) -> bool:
    """Whether the policies' table was changed. Fits `hostnet.nft.watch.Concerns`."""
    del kind
    return (family, table) == (FAMILIES[TABLE[0]], TABLE[1])


class WantedPolicies(NamedTuple):
    """What one apply is to do."""

    network: PodNetwork
    whole: bool
    """Whether the kernel's table is read again."""
    on_switch: bool
    """Whether the data plane attaches pods, and has to isolate them."""


class PodsMadeHere(NamedTuple):
    """What the records of CNI calls say."""

    attached: dict[IPAddress, str]
    """Addresses, by the pod's key; empty for one that is no pod of Kubernetes."""
    bridges: tuple[str, ...]
    """By which the pods reach each other."""


class PolicyController:
    """Fits `agent.controller.Controller`."""

    name = "network policy"
    depends_on = Change.POLICIES | Change.POLICY_TABLE | Change.POD_LINKS
    rereads_on = Change.POLICY_TABLE
    after = ()
    preferably_after = ()
    worker = "network policy"

    def __init__(self, feed: PolicyFeed, kernel: ChainTableSocket, host: PluginHost) -> None:
        """Take the socket, which `close` closes; `host` has the records of pods."""
        self.required_for_pods = feed.enabled
        self._feed = feed
        self._kernel = kernel
        self._host = host
        self._table: PolicyTable | None = None
        self._applied: ChainTable | None = None
        self._bridged = True
        self._tracked: Mapping[str, int] = {}
        """The pods' bridges that were told to track: their interface indexes, 0 for none."""
        self._problems: frozenset[str] = frozenset()
        """Of policies, those that were told."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> WantedPolicies:
        """Where pods are, and what is looked at again."""
        on_switch = attached_by_switch(inputs.host.config)
        network = pod_network(inputs.host, on_switch=on_switch)
        return WantedPolicies(network, whole=dirty.whole, on_switch=on_switch)

    def apply(self, desired: WantedPolicies) -> Report:
        """Take in what has changed, and change what differs. Raises NetlinkError, CniError."""
        network, whole = desired.network, desired.whole
        if not self._feed.enabled:
            return self._remove() if whole else Report()
        taken = self._feed.take()
        if self._table is None:
            if taken is None:
                return Report()  # what an earlier run left stays in force; `status` says so
            self._table = PolicyTable(self._feed.node)
        for one in taken or ():
            self._table.take(one)
        pods = self._pods_made_here()
        self._table.network = network._replace(bridges=pods.bridges)
        self._table.attach(pods.attached | self._feed.new_pods())
        there = {name: _index(name) for name in pods.bridges}
        if whole or there != self._tracked:
            self._track(there)
        report = self._write(self._table.wanted(), whole=whole)
        self._feed.isolate(self._table.isolation() if desired.on_switch else None)
        self._feed.applied(self._table.knows)
        problems = frozenset(self._table.problems.values())
        for problem in sorted(problems - self._problems):
            log.warning("%s", problem)
        self._problems = problems
        return report

    def _write(self, wanted: ChainTable, *, whole: bool) -> Report:
        applied, self._applied = self._applied, None
        actual = self._kernel.read(wanted) if whole or applied is None else applied
        todo = changes(actual, wanted)
        self._kernel.apply(todo)
        self._applied = wanted
        count = sum(map(len, todo))
        return Report(count, lambda: [f"nft table {' '.join(TABLE)}: {count} changes"])

    def _pods_made_here(self) -> PodsMadeHere:
        attached: dict[IPAddress, str] = {}
        bridges = {DEFAULT_BRIDGE}
        if (self._host.state_dir / ADDRESS_STORE).exists():
            for record in AttachmentStore(self._host).records():
                told: Iterable[str] = record.ips or record.metadata.get("ips", ())
                pod = str(record.metadata.get("pod", ""))
                attached |= {ip_address(str(one).partition("/")[0]): pod for one in told}
                checked = record.metadata.get(source_guard.RECORDED)
                if isinstance(checked, dict) and checked.get("bridge"):
                    bridges.add(str(checked["bridge"]))
        return PodsMadeHere(attached, tuple(sorted(bridges)))

    def _track(self, bridges: Mapping[str, int]) -> None:
        """Have packets between pods of one bridge pass the table.

        Not again while they are the same devices: each change of a link waits for others'.
        """
        self._bridged = bridged.available()
        if self._bridged:
            with Kernel() as kernel:
                for name in bridges:
                    bridged.track(kernel.socket, name, on=True)
            self._tracked = bridges

    def _remove(self) -> Report:
        if TABLE not in table_names():
            return Report()
        self._kernel.delete(*TABLE)
        return Report(1, lambda: [f"nft delete table {' '.join(TABLE)}"])

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """What becomes of the table; its rules are known to a running daemon only."""
        del inputs
        there = TABLE in table_names()
        if self._feed.enabled == there:
            return []
        return [f"nft {'add' if self._feed.enabled else 'delete'} table {' '.join(TABLE)}"]

    def status(self) -> str | None:
        """Why policies are not enforced as they should be."""
        if not self._feed.enabled:
            return None
        if self._table is None:
            return self._feed.problem()
        return None if self._bridged else NO_BRIDGE_NETFILTER

    def samples(self) -> list[MetricSample]:
        """What was refused, and how much is in force."""
        applied = self._applied
        if applied is None:
            return []
        text = "Packets dropped by this host's filter, by reason"
        found = [
            MetricSample("dropped_packets", text, packets, {"reason": f"policy_{name}"})
            for name, packets in sorted(read_counters(*TABLE).items())
        ]
        rules = sum(map(len, applied.chains.values()))
        words = "Rules of network policies that are in force on this host"
        found.append(MetricSample("policy_rules", words, rules, gauge=True))
        words = "Network policies that allow nothing, as they are too large"
        found.append(MetricSample("refused_policies", words, len(self._problems), gauge=True))
        return found

    def close(self) -> None:
        """Close the sockets; policies stay in force."""
        self._kernel.close()

    def cleanup(self) -> list[str]:
        """Remove the table."""
        self._remove()
        return []


def _index(name: str) -> int:
    """A device's interface index; 0 where there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def attached_by_switch(config: NetworkConfig) -> bool:
    """Whether pods are ports of Open vSwitch (`PodAttach`), past the kernel's packet filter."""
    told = {name.lower(): value for name, value in config.backend.items()}
    return config.backend_type == "ovs" and told.get("podattach") == "obr0"


def pod_network(host: HostInputs, *, on_switch: bool) -> PodNetwork:
    """This host's part of the cluster's network."""
    own = (host.own.subnet, host.own.ipv6_subnet)
    subnets = tuple(one for one in own if one is not None)
    return PodNetwork(subnets, switch=OBR0 if on_switch else "")
