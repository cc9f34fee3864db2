# SPDX-License-Identifier: Apache-2.0
"""Why a node can't take a task. The texts are Swarm's, with the number of nodes in front."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.placement.constraints import ARCHITECTURES
from scheduler.placement.demand import Demand, NodeFilter
from scheduler.placement.node_state import NodeState

SILENT = "node is down"
UNAVAILABLE = "not available for new tasks"
CONSTRAINTS = "scheduling constraints not satisfied"
PLATFORM = "unsupported platform"
PLUGINS = "missing plugin"
RESOURCES = "insufficient resources"
PORTS = "host-mode port already in use"
REPLICAS = "max replicas per node limit reached"


def refused_for_what_it_is(node: NodeState, wanted: NodeFilter) -> str | None:
    """Why a node can't take tasks with this filter, whatever runs on it; None: it can."""
    if not node.ready:
        return SILENT
    if node.availability != "active":
        return UNAVAILABLE
    for constraint in wanted.constraints:
        if not constraint.allows(node):
            return CONSTRAINTS
    if wanted.platforms and not any(_runs(node, *one) for one in wanted.platforms):
        return PLATFORM
    if not wanted.plugins <= node.plugins:
        return PLUGINS
    return None


def refused_for_its_tasks(node: NodeState, demand: Demand) -> str | None:
    """Why a node can't take one more task beside those it has; None: it can."""
    if demand.cpus and node.used_cpus + demand.cpus > node.cpus:
        return RESOURCES
    if demand.memory and node.used_memory + demand.memory > node.memory:
        return RESOURCES
    if demand.max_replicas and node.services[demand.service] >= demand.max_replicas:
        return REPLICAS
    if demand.ports and any((one.protocol, one.published) in node.ports for one in demand.ports):
        return PORTS
    return None


def explained(counts: Mapping[str, int]) -> str:
    """The reason of a pending task, from how many nodes failed which filter."""
    parts = [
        f"{reason} on {number} {'node' if number == 1 else 'nodes'}"
        for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if number
    ]
    return f"no suitable node ({'; '.join(parts) or 'there are no nodes'})"


def _runs(node: NodeState, os: str, architecture: str) -> bool:
    def plain(name: str) -> str:
        return ARCHITECTURES.get(name.lower(), name.lower())

    return (not os or os.lower() == node.os.lower()) and (
        not architecture or plain(architecture) == plain(node.architecture)
    )
