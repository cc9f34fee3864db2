# SPDX-License-Identifier: Apache-2.0
"""What the tasks of one template need of a node."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.errors import SpecError
from scheduler.model.service import PortConfig, Preference, ServiceSpec, TaskSpec
from scheduler.model.task import HostPort
from scheduler.placement.constraints import LABELS, Constraint, parse_constraint

STRATEGY_LABEL = "flatmesh.placement"
"""A service's label: `spread` (the default) or `binpack`."""
PLUGINS_LABEL = "flatmesh.plugins"
"""A service's label: plugins that nodes must have, as TYPE/NAME, comma-separated."""


@dataclass(frozen=True, slots=True)
class NodeFilter:
    """What a node must be, whatever runs on it: demands with one filter share a heap."""

    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[tuple[str, str], ...] = ()
    """Operating system and architecture; empty: any."""
    plugins: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Demand:
    """What each task of a group needs."""

    service: str
    filter: NodeFilter = NodeFilter()
    cpus: int = 0
    memory: int = 0
    ports: tuple[HostPort, ...] = ()
    max_replicas: int = 0
    preferences: tuple[str, ...] = ()
    """Labels whose values get equally many tasks, the first one first."""
    binpack: bool = False
    failures: dict[str, int] = field(default_factory=dict, compare=False, hash=False)
    """How often the template failed on a node: it is the last choice."""


def demand_of(service: str, spec: TaskSpec, of: ServiceSpec | None = None) -> Demand:
    """The demand of a service's tasks, or of a container task. Raises SpecError."""
    placement = spec.placement
    labels = of.labels if of is not None else {}
    strategy = labels.get(STRATEGY_LABEL, "spread")
    if strategy not in ("spread", "binpack"):
        raise SpecError(f"label {STRATEGY_LABEL}={strategy}: it is spread or binpack")
    reserved = spec.resources.reservations
    return Demand(
        service,
        NodeFilter(
            tuple(sorted(map(parse_constraint, placement.constraints), key=str)),
            tuple(sorted((one.os, one.architecture) for one in placement.platforms)),
            frozenset(map(_plugin, filter(None, labels.get(PLUGINS_LABEL, "").split(",")))),
        ),
        reserved.nano_cpus,
        reserved.memory_bytes,
        host_ports(of.endpoint_spec.ports if of is not None else []),
        placement.max_replicas,
        tuple(map(_descriptor, placement.preferences)),
        strategy == "binpack",
    )


def host_ports(ports: list[PortConfig]) -> tuple[HostPort, ...]:
    """The ports that are published on the task's own node."""
    return tuple(
        HostPort(port.protocol, port.published_port or port.target_port, port.target_port)
        for port in ports
        if port.publish_mode == "host"
    )


def _descriptor(preference: Preference) -> str:
    descriptor = preference.spread.spread_descriptor
    if not descriptor.startswith(LABELS):
        raise SpecError(f"placement preference {descriptor!r}: write spread=node.labels.NAME")
    return descriptor


def _plugin(text: str) -> tuple[str, str]:
    kind, _, name = text.strip().partition("/")
    if not (kind and name):
        raise SpecError(f"label {PLUGINS_LABEL}: {text!r} is not TYPE/NAME")
    return kind, name
