"""A packet counter that somebody else keeps: a data plane's, a switch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Count:
    """One counter, for Prometheus."""

    name: str
    """As `udp_tx_packets`; what makes it whole ("flatmesh_", "_total") is put around it."""
    help: str
    value: int
    labels: Mapping[str, str] = field(default_factory=dict)
