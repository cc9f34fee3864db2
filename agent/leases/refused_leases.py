# SPDX-License-Identifier: Apache-2.0
"""Tells about leases that are not served: a line each, and a metric; never many lines at once.

Whoever writes to the lease source may write as often as he likes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from backend.metric_sample import MetricSample
from ipam.lease_claims import Refusal

log = logging.getLogger("agent.leases")
LINES, INTERVAL = 10, 60.0
"""So many lines are written in as many seconds; what comes beyond is in one line of its own."""


class RefusedLeases:
    """What is refused now. `report` is for the event loop, the rest for any thread."""

    def __init__(self) -> None:
        self._refused: Mapping[str, Refusal] = {}
        self._since = 0.0
        self._lines = 0

    def report(self, refused: Mapping[str, Refusal]) -> None:
        """Take in all that is refused now."""
        before, self._refused = self._refused, dict(refused)
        now = time.monotonic()
        if now - self._since > INTERVAL:
            self._since, self._lines = now, 0
        for key, refusal in self._refused.items():
            if before.get(key) == refusal:
                continue
            self._lines += 1
            if self._lines <= LINES:
                log.error("%s", refusal.text)
            elif self._lines == LINES + 1:
                log.error("more leases are not served: see /readyz and flatmesh_refused_leases")
        served = sorted(before.keys() - self._refused.keys())
        for key in served[:LINES]:
            log.info("lease %s is not refused any more", key[:200])
        if len(served) > LINES:
            log.info("%d more leases are not refused any more", len(served) - LINES)

    def lines(self) -> Sequence[str]:
        """What is refused and why."""
        return [refusal.text for refusal in self._refused.values()]

    def samples(self) -> Sequence[MetricSample]:
        """How many, by reason."""
        counts = Counter(refusal.reason for refusal in self._refused.values())
        text = "Leases that are not served because of what they claim, by reason"
        return [
            MetricSample("refused_leases", text, count, {"reason": reason}, gauge=True)
            for reason, count in sorted(counts.items())
        ]
