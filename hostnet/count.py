"""A metric that is read when Prometheus asks: a counter or a gauge that another part keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Count:
    """One value of one metric."""

    name: str
    """As `udp_tx_packets`; what makes it whole ("flatmesh_", "_total") is put around it."""
    help: str
    value: int
    labels: Mapping[str, str] = field(default_factory=dict)
    gauge: bool = False
    """Whether the value can fall; its name then gets no "_total"."""
