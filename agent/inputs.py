# SPDX-License-Identifier: Apache-2.0
"""What the desired state of a host follows from: values only, made by the loop.

`HostInputs` is everything but the peers, `ReconcileInputs` has the leases too. Controllers run in
worker threads and get a `ReconcileInputs` each time; nothing in it changes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.settings import Settings
from backend.protocol import Backend
from hostnet.underlay import Underlay
from ipam.lease import Lease
from ipam.network import NetworkConfig


@dataclass(frozen=True, slots=True)
class HostInputs:
    """Everything but the peers."""

    backend: Backend
    config: NetworkConfig
    own: Lease
    underlay: Underlay
    ip_masq: bool

    def is_peer(self, lease: Lease) -> bool:
        """Whether a lease is another host's: not ours, and not under our own address."""
        if lease.subnet == self.own.subnet and lease.ipv6_subnet == self.own.ipv6_subnet:
            return False
        theirs, ours = lease.attributes, self.own.attributes
        same_ipv4 = theirs.public_ip is not None and theirs.public_ip == ours.public_ip
        same_ipv6 = theirs.public_ipv6 is not None and theirs.public_ipv6 == ours.public_ipv6
        return not (same_ipv4 or same_ipv6)


@dataclass(frozen=True, slots=True)
class ReconcileInputs:
    """Everything there is to know for one reconcile."""

    host: HostInputs
    leases: Mapping[str, Lease]
    """All leases to serve by key: those that the source has, and expired ones within their
    grace period. This host's own is among them. Never changed."""


def masquerades(settings: Settings, config: NetworkConfig) -> bool:
    """Whether this host masquerades: the cluster config overrides the flag."""
    return settings.ip_masq if config.ip_masq is None else config.ip_masq
