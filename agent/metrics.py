"""What the daemon counts, for Prometheus. One registry per daemon, so tests can run several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from backend.protocol import DataPlane

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

    def follow_data_plane(self, current: Callable[[], DataPlane | None]) -> None:
        """Show what the data plane counts itself, if it does: it is asked at each scrape."""
        self.registry.register(_DataPlaneCounts(current))


class _DataPlaneCounts(Collector):
    """Asks a data plane for its counters; the health server's threads call it."""

    def __init__(self, current: Callable[[], DataPlane | None]) -> None:
        self._current = current

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Nothing in advance: which backend runs is not known yet."""
        return iter(())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All counters, those of one name together."""
        plane = self._current()
        families: dict[str, CounterMetricFamily] = {}
        for count in plane.samples() if plane is not None else ():
            family = families.setdefault(
                count.name,
                CounterMetricFamily(f"flatmesh_{count.name}", count.help, labels=[*count.labels]),
            )
            family.add_metric([*count.labels.values()], count.value)
        yield from families.values()
