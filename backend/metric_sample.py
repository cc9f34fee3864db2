# SPDX-License-Identifier: Apache-2.0
"""One value for Prometheus, read when it asks: of a counter or gauge that another part keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value of one metric."""

    name: str
    """As `udp_tx_packets`: `agent.metrics` adds "flatmesh_", and "_total" to a counter's."""
    help: str
    """What it counts, in one line."""
    value: int
    labels: Mapping[str, str] = field(default_factory=dict)
    gauge: bool = False
    """Whether the value can fall."""
