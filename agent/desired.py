"""From leases to what this host should look like. Pure: nothing here touches anything.

The desired state is `base | peer(a) | peer(b) | ...`, and each peer's part is remembered, so
that one changed lease is one peer's part taken out and one put in. Applying just that
difference is what keeps a change at milliseconds with thousands of peers present; whoever
does not trust the kernel to be as last left it asks for `whole()` and diffs it with a dump.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.settings import Settings
from backend.protocol import Backend
from flannel import masquerade
from hostnet.state import HostState, Sysctl, merge
from hostnet.underlay import Underlay
from ipam.lease import Lease, PeerUnusableError
from ipam.network import NetworkConfig

IPV4_FORWARD = Sysctl("net/ipv4/ip_forward", "1")
IPV6_FORWARD = Sysctl("net/ipv6/conf/all/forwarding", "1")


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything but the peers that the desired state follows from."""

    backend: Backend
    config: NetworkConfig
    own: Lease
    underlay: Underlay
    ip_masq: bool

    def base(self) -> HostState:
        """What this host needs without any peer."""
        forward = [IPV4_FORWARD] * (self.own.subnet is not None)
        forward += [IPV6_FORWARD] * (self.own.ipv6_subnet is not None)
        table = masquerade.table(self.config, self.own, masquerade=self.ip_masq)
        ours = HostState(sysctls=frozenset(forward), tables=frozenset([table]))
        return self.backend.base(self.own, self.underlay) | ours

    def is_peer(self, lease: Lease) -> bool:
        """Whether a lease is another host's: not ours, and not under our own address."""
        if lease.subnet == self.own.subnet and lease.ipv6_subnet == self.own.ipv6_subnet:
            return False
        theirs, ours = lease.attributes, self.own.attributes
        same_ipv4 = theirs.public_ip is not None and theirs.public_ip == ours.public_ip
        same_ipv6 = theirs.public_ipv6 is not None and theirs.public_ipv6 == ours.public_ipv6
        return not (same_ipv4 or same_ipv6)


def masquerades(settings: Settings, config: NetworkConfig) -> bool:
    """Whether this host masquerades: the cluster config's word counts before the flag's."""
    return settings.ip_masq if config.ip_masq is None else config.ip_masq


@dataclass(slots=True)
class DesiredState:
    """The desired state for one situation, kept per peer."""

    situation: Situation
    parts: dict[str, HostState] = field(default_factory=dict)
    """By lease key."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Why a peer has no part, by lease key."""
    peers: dict[str, Lease] = field(default_factory=dict)
    """The leases of all usable peers."""

    def whole(self) -> HostState:
        """Everything this host should hold."""
        return merge([self.situation.base(), *self.parts.values()])

    def update(
        self, leases: Mapping[str, Lease], keys: Iterable[str]
    ) -> tuple[HostState, HostState]:
        """Take in the leases under `keys` as they are now; returns (before, after) of their parts.

        A key that is in `keys` but not in `leases` has gone.
        """
        before, after = [], []
        for key in keys:
            old = self.parts.pop(key, None)
            if old is not None:
                before.append(old)
            self.unusable.pop(key, None)
            self.peers.pop(key, None)
            lease = leases.get(key)
            if lease is None or not self.situation.is_peer(lease):
                continue
            try:
                part = self.situation.backend.peer(
                    lease, self.situation.own, self.situation.underlay
                )
            except PeerUnusableError as problem:
                self.unusable[key] = str(problem)
                continue
            self.parts[key] = part
            self.peers[key] = lease
            after.append(part)
        return merge(before), merge(after)
