# SPDX-License-Identifier: Apache-2.0
"""What the controller of services serves, for the routing mesh: both run in one worker thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.model import Service
from services.served import ServedService


@dataclass(slots=True)
class JudgedServices:
    """The services as they are served now, and the names of those that changed."""

    services: Mapping[str, ServedService] = field(default_factory=dict)
    allowed: Mapping[str, Service] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    """Since the mesh has last looked."""
    known: bool = False
    """Whether etcd was read at all."""
    whole: bool = True
    """Whether all may differ."""

    def take(self) -> dict[str, ServedService | None]:
        """Those that changed; None: gone."""
        found = {name: self.services.get(name) for name in self.changed}
        self.changed, self.whole = set(), False
        return found
