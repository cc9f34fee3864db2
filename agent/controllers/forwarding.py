# SPDX-License-Identifier: Apache-2.0
"""The forwarding controller: forwarding, masquerade, and the filter against forged packets.

The table's text follows from the host's own inputs, its sets' elements from the leases. A changed
lease is a few elements, applied without a look at the kernel. Elements are written before the text
that refers to their sets, so that no packet of a peer meets an empty set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.controller import Change, Dirty, Report
from agent.etcd_addresses import EtcdAddresses
from agent.inputs import HostInputs, ReconcileInputs
from agent.kernel_applier import KernelChange, StateApplier
from backend.metric_sample import MetricSample
from flannel import host_filter, host_table
from flannel.members import MemberElements, address_element
from hostnet.nft.counters import read_counters
from hostnet.ownership import NFT_TABLE
from hostnet.state import HostState
from hostnet.sysctl import Sysctl
from ipam.lease import Lease

log = logging.getLogger("agent.forwarding")
IPV4_FORWARD = Sysctl("net/ipv4/ip_forward", "1")
IPV6_FORWARD = Sysctl("net/ipv6/conf/all/forwarding", "1")


@dataclass(slots=True)
class HostParts:
    """What the desired state for one `HostInputs` is made of."""

    host: HostInputs
    members: MemberElements = field(init=False)
    lengths: tuple[tuple[int, int], ...] = ()
    """Prefix lengths of the leases' subnets, with their families."""

    def __post_init__(self) -> None:
        """Begin without leases."""
        self.members = MemberElements(self.host.backend.arrivals(), self.host.is_peer)

    def has_lengths_of(self, leases: Mapping[str, Lease], keys: set[str]) -> bool:
        """Whether the text has rules for the leases under these keys."""
        changed = (leases[key] for key in keys if key in leases)
        return _lengths(changed) <= set(self.lengths)


def _lengths(leases: Iterable[Lease]) -> set[tuple[int, int]]:
    return {(n.version, n.prefixlen) for lease in leases for n in lease.subnets}


class ForwardingController:
    """Fits `agent.controller.Controller`."""

    name = "forwarding"
    depends_on = Change.NFTABLES | Change.LEASES | Change.CLOCK
    rereads_on = Change.NFTABLES
    after = ()
    preferably_after = ()
    required_for_pods = True
    worker = "forwarding"

    def __init__(self, applier: StateApplier, etcd: EtcdAddresses, metrics_port: int = 0) -> None:
        """Take an applier of the forwarding's owner, which `close` closes, and what to close."""
        self._applier = applier
        self._etcd = etcd
        self._metrics_port = metrics_port
        self._parts: HostParts | None = None

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> KernelChange:
        """Two sysctls at most, one nftables table and its sets; or the elements that change."""
        parts = self._parts
        if (
            dirty.whole
            or parts is None
            or parts.host != inputs.host
            or not parts.has_lengths_of(inputs.leases, dirty.keys)
        ):
            self._parts = parts = HostParts(inputs.host)
            return None, self._whole(parts, inputs.leases)
        gone, come = parts.members.update(inputs.leases, dirty.keys)
        return HostState(gone), HostState(come)

    def _whole(self, parts: HostParts, leases: Mapping[str, Lease]) -> HostState:
        host = parts.host
        config, own, underlay = host.config, host.own, host.underlay
        lengths = _lengths([*leases.values(), own])
        if config.network is not None:
            lengths.add((4, config.subnet_len))
        if config.ipv6_network is not None:
            lengths.add((6, config.ipv6_subnet_len))
        parts.lengths = tuple(sorted(lengths))
        arrivals = parts.members.arrivals
        wanted = host_filter.HostFilter(
            [network for network, _ in host_table.families(config, own)],
            underlay.link,
            arrivals,
            host_filter.ClosedPorts.of(
                arrivals, self._etcd.ports, self._metrics_port, config.open_to_pods
            ),
            parts.lengths,
            [end for end in (underlay.local(4), underlay.local(6)) if end is not None],
        )
        closed: set[IPv4Address | IPv6Address] = {one.ip for one in underlay.addresses}
        closed |= self._etcd.addresses(again=True)
        parts.members.uses.update(address_element("protected", address) for address in closed)
        parts.members.update(leases, leases)
        sysctls = [IPV4_FORWARD] * (own.subnet is not None)
        sysctls += [IPV6_FORWARD] * (own.ipv6_subnet is not None)
        return HostState(
            sysctls=frozenset(sysctls),
            tables=[host_table.table(config, own, wanted, masquerades=host.ip_masq)],
            sets=wanted.sets(),
            elements=parts.members.uses.keys(),
        )

    def apply(self, desired: KernelChange) -> Report:
        """Write what differs."""
        return self._applier.apply(desired)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands."""
        _, whole = self.desired(inputs, Dirty(whole=True))
        return self._applier.plan(whole)

    def status(self) -> str | None:
        """Nothing to ask: what the kernel refused is in the report."""
        return None

    def samples(self) -> list[MetricSample]:
        """What the table has dropped, by reason."""
        text = "Packets dropped by this host's filter, by reason"
        return [
            MetricSample("dropped_packets", text, packets, {"reason": name})
            for name, packets in sorted(read_counters("inet", NFT_TABLE).items())
        ]

    def close(self) -> None:
        """Close the sockets."""
        self._applier.close()

    def cleanup(self) -> list[str]:
        """Remove the table; forwarding stays on, as others may rely on it by now."""
        return self._applier.cleanup(log.info)
