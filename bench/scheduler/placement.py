# SPDX-License-Identifier: Apache-2.0
"""Placement alone: no etcd, one process, one core."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scheduler.placement.demand import Demand
from scheduler.placement.node_state import NodeState
from scheduler.placement.node_table import NodeTable
from scheduler.placement.place import place

SIZES = ((1_000, 10_000), (10_000, 100_000))
"""Nodes and tasks."""
CPUS, MEMORY = 64 * 10**9, 256 << 30


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast tasks were placed."""

    nodes: int
    tasks: int
    per_service: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Tasks a second."""
        return self.tasks / self.seconds

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"{self.tasks} tasks of services of {self.per_service} on {self.nodes} nodes: "
            f"{self.seconds:.2f} s, {self.per_second:.0f} a second"
        )


def measure(nodes: int, tasks: int, per_service: int) -> Rate:
    """Place tasks with reservations on empty nodes."""
    table = NodeTable()
    for number in range(nodes):
        table.put(NodeState(f"n{number}", cpus=CPUS, memory=MEMORY))
    started = time.perf_counter()
    for number in range(tasks // per_service):
        demand = Demand(f"s{number}", cpus=10**8, memory=64 << 20)
        placed = place(table, demand, per_service)
        if len(placed.nodes) != per_service:
            raise RuntimeError(placed.reason)
    return Rate(nodes, tasks, per_service, time.perf_counter() - started)


def all_rates() -> list[Rate]:
    """One service, services of ten, services of one; small cluster and large."""
    return [
        measure(nodes, tasks, per_service)
        for nodes, tasks in SIZES
        for per_service in (1, 10, tasks)
    ]
