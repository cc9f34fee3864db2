# SPDX-License-Identifier: Apache-2.0
"""Whether the devices that a backend wants are there and up.

The kernel's refusal is a line for each change; here is what it means for the host: without its
tunnel device no pod reaches another host, whatever else was applied well.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.inputs import HostInputs
from base.errors import FlatmeshError
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link import Link
from hostnet.wireguard.device import find_device


@dataclass(frozen=True, slots=True)
class StandingDevices:
    """The devices of one host's backend, as they were applied last."""

    host: HostInputs | None = None
    failures: tuple[str, ...] = ()
    """Of that apply."""

    def problem(self) -> str | None:
        """The first device that does not stand, and why. Raises OSError."""
        if self.host is None:
            return None
        links = self.host.backend.base(self.host.own, self.host.underlay).of(Link)
        for link in sorted(links, key=lambda one: one.name):
            what = _wrong(link, find_device(link.name))
            if what is not None:
                why = self._reason(link.name)
                return f"overlay: device {link.name} {what}" + (f": {why}" if why else "")
        return None

    def _reason(self, name: str) -> str | None:
        assert self.host is not None  # noqa: S101 - asked for devices of one
        refused = next((line for line in self.failures if name in line.split()), None)
        try:
            return self.host.backend.obstacle(self.host.underlay, ()) or refused
        except (FlatmeshError, OSError):
            return refused


def _wrong(wanted: Link, found: ActualLink | None) -> str | None:
    if found is None:
        return "is not there"
    if wanted.kind and found.kind != wanted.kind:
        return f"is of another type, {found.kind or 'hardware'}"
    return "is down" if wanted.up and not found.up else None
