# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts, for Prometheus. One registry per daemon, so tests can run several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backend.metric_sample import MetricSample

# seconds: a single changed lease takes about a millisecond, 10,000 peers from nothing about one
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class MeasuredPart(Protocol):
    """A part of the host. Both calls come from the health server's threads, and end at once."""

    @property
    def name(self) -> str:
        """The label `controller`."""

    def status(self) -> str | None:
        """What is wrong with it, as one line; None when nothing is."""

    def samples(self) -> Sequence[MetricSample]:
        """What it counts itself."""


@dataclass(slots=True)
class Metrics:
    """The daemon's figures."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    reconciles: Histogram = field(init=False)
    changes: Counter = field(init=False)
    errors: Counter = field(init=False)

    def __post_init__(self) -> None:
        """Register them all."""
        where = self.registry
        self.reconciles = Histogram(
            "flatmesh_reconcile_seconds",
            "Time to make the host as wanted",
            ["kind", "controller"],
            buckets=BUCKETS,
            registry=where,
        )
        self.changes = Counter("flatmesh_changes", "Kernel objects changed", registry=where)
        self.errors = Counter("flatmesh_errors", "Changes the kernel refused", registry=where)

    def follow(
        self, parts: Sequence[MeasuredPart], more: Callable[[], Sequence[MetricSample]] = tuple
    ) -> None:
        """Show which parts fail, and what they count themselves: they are asked at each scrape.

        `more` are samples of no part.
        """
        self.registry.register(_Samples(parts, more))


class _Samples(Collector):
    """Asks the parts for their state and samples; the health server's threads call it."""

    def __init__(
        self, parts: Sequence[MeasuredPart], more: Callable[[], Sequence[MetricSample]]
    ) -> None:
        self._parts = parts
        self._more = more

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: which backend runs is not known yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Which parts fail; then all samples, those of one name together."""
        failing = GaugeMetricFamily(
            "flatmesh_controller_failing",
            "1 while a controller could not be applied, or what it applied does not work",
            labels=["controller"],
        )
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for part in self._parts:
            failing.add_metric([part.name], part.status() is not None)
        for sample in (*(s for part in self._parts for s in part.samples()), *self._more()):
            kind = GaugeMetricFamily if sample.gauge else CounterMetricFamily
            family = families.setdefault(
                sample.name,
                kind(f"flatmesh_{sample.name}", sample.help, labels=[*sample.labels]),
            )
            family.add_metric([*sample.labels.values()], sample.value)
        yield failing
        yield from families.values()
