# SPDX-License-Identifier: Apache-2.0
"""What each task of this node uses, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import PodStats, Runtime
from scheduler.worker.runner import TaskRunner

CONTENT_TYPE = CONTENT_TYPE_LATEST
TASK = ["task", "service"]


class _Figures(Collector):
    """The page's content, from one look."""

    def __init__(self, states: dict[str, int], found: list[tuple[PodStats, str]]) -> None:
        self._states, self._found = states, found

    def collect(self) -> Iterator[Metric]:
        """As Prometheus names things; container figures as cAdvisor does."""
        prefix = "flatmesh_scheduler_task"
        states = GaugeMetricFamily(f"{prefix}s", "Tasks of this node by state", labels=["state"])
        for state, count in self._states.items():
            states.add_metric([state], count)
        yield states
        container = [*TASK, "container"]
        cpu = CounterMetricFamily(f"{prefix}_cpu_seconds", "Processor time", labels=container)
        memory = GaugeMetricFamily(f"{prefix}_memory_bytes", "Memory in use", labels=container)
        limit = GaugeMetricFamily(
            f"{prefix}_memory_limit_bytes", "Most memory; 0: no limit", labels=container
        )
        pids = GaugeMetricFamily(f"{prefix}_pids", "Processes and threads", labels=container)
        for stats, service in self._found:
            for one in stats.containers:
                names = [stats.id, service, one.name]
                cpu.add_metric(names, one.cpu_seconds)
                memory.add_metric(names, one.memory_bytes)
                limit.add_metric(names, one.memory_limit)
                pids.add_metric(names, one.pids)
        yield from (cpu, memory, limit, pids)
        for direction, text in (("rx", "Received"), ("tx", "Sent")):
            for what in ("bytes", "packets", "dropped"):
                family = CounterMetricFamily(
                    f"{prefix}_{direction}_{what}",
                    f"{text} by the task ({what})",
                    labels=[*TASK, "interface"],
                )
                for stats, service in self._found:
                    for interface in stats.interfaces:
                        value = getattr(interface, f"{direction}_{what}")
                        family.add_metric([stats.id, service, interface.name], value)
                yield family


async def exposition(runtime: Runtime, runners: Mapping[str, TaskRunner]) -> bytes:
    """The page."""
    states: dict[str, int] = {}
    for runner in runners.values():
        name = runner.status.state.docker
        states[name] = states.get(name, 0) + 1
    pods = [pod.id for pod in await runtime.list() if pod.running and pod.id in runners]
    results = await asyncio.gather(*map(runtime.stats, pods), return_exceptions=True)
    found = []
    for result in results:
        if isinstance(result, PodStats):
            found.append((result, runners[result.id].task.service))
        elif not isinstance(result, RuntimeCallError):
            raise result
    registry = CollectorRegistry()
    registry.register(_Figures(states, found))
    return generate_latest(registry)
