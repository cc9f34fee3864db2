"""What the daemon counts, for Prometheus. One registry per daemon, so tests can run several."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# seconds: a single changed lease takes about a millisecond, 10,000 peers from nothing about one
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Metrics:
    """The daemon's figures."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    peers: Gauge = field(init=False)
    unusable: Gauge = field(init=False)
    reconciles: Histogram = field(init=False)
    changes: Counter = field(init=False)
    errors: Counter = field(init=False)

    def __post_init__(self) -> None:
        """Register them all."""
        where = self.registry
        self.peers = Gauge("flatmesh_peers", "Peers programmed", registry=where)
        self.unusable = Gauge(
            "flatmesh_unusable_peers", "Leases this host can't use", registry=where
        )
        self.reconciles = Histogram(
            "flatmesh_reconcile_seconds",
            "Time to make the host as wanted",
            ["kind"],
            buckets=BUCKETS,
            registry=where,
        )
        self.changes = Counter("flatmesh_changes", "Kernel objects changed", registry=where)
        self.errors = Counter("flatmesh_errors", "Changes the kernel refused", registry=where)
