# SPDX-License-Identifier: Apache-2.0
"""What network policies mean for pods that a data plane attaches itself: values.

The kernel's packet filter does not see what such pods send to each other. So the data plane gets,
for each direction, which pods are isolated, and what they may send or receive all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

EGRESS, INGRESS = "egress", "ingress"
MAX_PORT = 65535


class PortRange(NamedTuple):
    """Destination ports of one protocol: tcp, udp or sctp."""

    protocol: str
    first: int = 0
    last: int = MAX_PORT


class Allowed(NamedTuple):
    """What some pods may send to, or receive from, peers."""

    name: str
    """Stays the same while pods and peers come and go."""
    direction: str
    pods: tuple[str, ...]
    """Addresses of pods of this host."""
    peers: tuple[str, ...] | None
    """Addresses and networks; None: everybody."""
    ports: tuple[PortRange, ...] | None
    """None: every port and protocol."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """All of it for one host."""

    egress: frozenset[str] = frozenset()
    """Addresses of pods that send only what is allowed."""
    ingress: frozenset[str] = frozenset()
    allowed: tuple[Allowed, ...] = ()

    def isolated(self, direction: str) -> frozenset[str]:
        """Those for a direction."""
        return self.egress if direction == EGRESS else self.ingress
