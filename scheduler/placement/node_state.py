# SPDX-License-Identifier: Apache-2.0
"""A node as placement sees it: what it is, and what is taken of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class NodeState:
    """One node; `used_*`, `load`, `ports` and `services` follow its tasks."""

    id: str
    hostname: str = ""
    role: str = "worker"
    availability: str = "active"
    ready: bool = True
    """Whether its worker is heard of."""
    address: str = ""
    os: str = "linux"
    architecture: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    engine_labels: Mapping[str, str] = field(default_factory=dict)
    plugins: frozenset[tuple[str, str]] = frozenset()
    """Type and name."""
    cpus: int = 0
    """Nano-CPUs."""
    memory: int = 0
    """Bytes."""
    index: int = 0
    """Breaks ties."""
    used_cpus: int = 0
    used_memory: int = 0
    load: int = 0
    """Tasks that run here, or will."""
    ports: set[tuple[str, int]] = field(default_factory=set)
    """Host ports that are taken: protocol, number."""
    services: Counter[str] = field(default_factory=Counter)
    """Tasks by service."""

    @property
    def available(self) -> bool:
        """Whether new tasks may be placed here."""
        return self.ready and self.availability == "active"
