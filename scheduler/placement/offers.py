# SPDX-License-Identifier: Apache-2.0
"""Resources of nodes for another framework's own tasks: requests and grants. Pure.

    offers/<framework>/<id>   {"NanoCPUs": 2000000000, "MemoryBytes": 1073741824, "Count": 3,
                               "Constraints": ["node.labels.disk==ssd"]}
    grants/<framework>/<id>   {"Nodes": ["<node id>", ...]}, or {"Reason": "no suitable node (...)"}

The framework writes the request, attached to its etcd lease; the leader answers with the grant, and
counts it as taken until the request goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scheduler.errors import SpecError
from scheduler.placement.constraints import parse_constraint
from scheduler.placement.demand import Demand, NodeFilter
from scheduler.placement.node_table import NodeTable
from scheduler.placement.place import place

MAX_COUNT = 1000
FIELDS = {"NanoCPUs", "MemoryBytes", "Count", "Constraints"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a framework asks for."""

    demand: Demand
    count: int


def parse_request(name: str, given: Any) -> Request:
    """Read a request; `name` is `<framework>/<id>`. Raises SpecError."""
    if not isinstance(given, dict):
        raise SpecError(f"offer {name}: it is no JSON object")
    unknown = set(given) - FIELDS
    if unknown:
        raise SpecError(f"offer {name}: {min(unknown)} is not supported: leave it out")
    count = _number(name, given, "Count", 1)
    if not 1 <= count <= MAX_COUNT:
        raise SpecError(f"offer {name}: Count {count} is not 1 to {MAX_COUNT}")
    constraints = given.get("Constraints", [])
    if not isinstance(constraints, list):
        raise SpecError(f"offer {name}: Constraints is no list")
    wanted = NodeFilter(tuple(sorted(map(parse_constraint, map(str, constraints)), key=str)))
    cpus, memory = _number(name, given, "NanoCPUs", 0), _number(name, given, "MemoryBytes", 0)
    return Request(Demand(f"offer/{name}", wanted, cpus, memory), count)


def answer(table: NodeTable, name: str, given: Any) -> dict[str, Any]:
    """The grant for a request; nothing is taken of the nodes yet."""
    try:
        request = parse_request(name, given)
    except SpecError as error:
        return {"Reason": str(error)}
    placed = place(table, request.demand, request.count)
    for node in placed.nodes:
        table.give_back(node, request.demand)
    if len(placed.nodes) < request.count:
        return {"Reason": placed.reason}
    return {"Nodes": [node.id for node in placed.nodes]}


def _number(name: str, given: dict[str, Any], key: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SpecError(f"offer {name}: {key} is no number of 0 or more")
    return value
