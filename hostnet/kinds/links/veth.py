# SPDX-License-Identifier: Apache-2.0
"""veth pairs whose two devices are both in one namespace (veth(4))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_veth, settings
from hostnet.netlink.socket import Request


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair whose two ends are both in this namespace."""

    peer: str


class VethKind:
    """Fits `hostnet.kinds.links.device_kind.DeviceKind`."""

    name = "veth"
    details = Veth
    adopts_unmarked = False

    def add(self, name: str, common: bytes, details: Veth, index: Mapping[str, int]) -> Request:
        """Make both devices, with no more than their names: each has its own settings."""
        del common, index
        both = settings(name=name), settings(name=details.peer)
        return add_veth(*both, host_up=False, peer_up=False)

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Veth | None:
        """The other device's name, unless it is in another namespace."""
        if found.peer_netnsid is not None or found.parent not in names:
            return None
        return Veth(names[found.parent])

    def can_become(self, have: Veth, want: Veth) -> bool:
        """A pair stays a pair."""
        return have == want

    def change(self, name: str, details: Veth) -> None:
        """Nothing can be changed."""

    def words(self, details: Veth) -> Sequence[str]:
        """`peer name PEER`."""
        return ("peer", "name", details.peer)

    def line(self, name: str, details: Veth) -> None:
        """`ip link add`."""

    def also_makes(self, details: Veth) -> Sequence[str]:
        """The other device."""
        return (details.peer,)

    def takes_common(self) -> bool:
        """Set after, as for the other device."""
        return False
