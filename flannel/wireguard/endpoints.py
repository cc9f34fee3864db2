# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a peer's packets go to: the one in its lease, or the one it was heard from.

WireGuard sends to where a peer was last heard from, so a device may rightly hold an endpoint
that isn't the lease's (a peer behind NAT, or with two addresses). flanneld sets an endpoint
when a lease appears or changes, and never again. We do the same, and set the lease's endpoint
again when a learned one has stopped to answer:

    the lease's endpoint is not the one of the last reconcile     set it
    the lease's is the same, the device's another                 leave it: it was learned
    learned, but nothing comes back from there any more           set the lease's
    the first reconcile: what the lease said before is not known  leave it while the peer's
                                                                  session lives, else set it

"Nothing comes back": we sent, at two reconciles at least ANSWER_TIMEOUT apart, and received
nothing in between, and the last handshake is older than any session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostnet.wireguard.state import Endpoint, WireguardPeer

SESSION = 180.0  # seconds: REJECT_AFTER_TIME of the WireGuard paper, section 6.1
ANSWER_TIMEOUT = 15.0  # seconds: three tries of a handshake (REKEY_TIMEOUT is 5 s)


@dataclass(slots=True)
class _Observation:
    """One peer as the last reconcile found it."""

    lease: Endpoint | None
    received: int
    """Bytes."""
    sent: int
    """Bytes."""
    unanswered_since: float | None = None
    """When we first found that we send and nothing comes back (Unix time)."""


@dataclass(slots=True)
class EndpointMemory:
    """One device's peers at the last reconcile. A restarted daemon begins with none."""

    _observed: dict[str, _Observation] = field(default_factory=dict)

    def learned(
        self,
        wanted: Mapping[str, WireguardPeer],
        found: Mapping[str, WireguardPeer],
        now: float,
    ) -> set[str]:
        """Public keys of the peers whose learned endpoint is kept.

        `wanted` has the endpoints of the leases, `found` those of the device; `now` is Unix time.
        """
        kept, observed = set(), {}
        for key, peer in wanted.items():
            there = found.get(key)
            if there is None:
                observed[key] = _Observation(peer.endpoint, 0, 0)
                continue
            before = self._observed.get(key)
            current = _Observation(peer.endpoint, there.received, there.sent)
            alive = now - there.last_handshake < SESSION
            if before is None:
                learned = alive
            else:
                learned = before.lease == peer.endpoint
                sends = there.sent > before.sent
                if there.received == before.received:
                    current.unanswered_since = before.unanswered_since or (now if sends else None)
                    since = before.unanswered_since
                    if sends and not alive and since is not None and now - since >= ANSWER_TIMEOUT:
                        learned = False
            observed[key] = current
            if learned and there.endpoint not in (None, peer.endpoint):
                kept.add(key)
        self._observed = observed
        return kept
