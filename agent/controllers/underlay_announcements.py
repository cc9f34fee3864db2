# SPDX-License-Identifier: Apache-2.0
"""The controller that tells the underlay which MAC this host's addresses have.

A host that reboots, or whose NIC is replaced, may come back with its address and another MAC. Peers
go on sending to the old one: a kernel until it has asked in vain, up to half a minute or as long as
its `base_reachable_time` says; Open vSwitch's userspace datapath for as long as packets of a flow
from before arrive, as each of them renews the entry with the MAC that the flow began with. A
gratuitous ARP, or an unsolicited neighbour advertisement, corrects both at once.

Frames get lost, so that they are sent again at the next ticks of the clock and at each resync.
Only the addresses that peers send to are announced: others on the device may float, and be at
another host by now.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from hostnet.announcements import FrameSender, announcement
from hostnet.find_link import find_link
from hostnet.netlink.socket import NetlinkSocket

TIMES = 3
"""How often a MAC that is new is announced: at once, and with the next ticks of the clock."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What peers are to be told."""

    link: str
    """The underlay device; its MAC is read as they are told, for nobody tells of its changes."""
    addresses: tuple[str, ...]
    """Without prefix lengths."""


@dataclass(slots=True)
class UnderlayAnnouncements:
    """Fits `agent.controller.Controller`."""

    name: str = "announcements"
    depends_on: Change = Change.KERNEL | Change.CLOCK
    rereads_on: Change = Change.NONE
    after: tuple[str, ...] = ()
    preferably_after: tuple[str, ...] = ("data plane",)
    required_for_pods: bool = False
    worker: str = "announcements"
    _sender: FrameSender = field(default_factory=FrameSender)
    _last: tuple[Announcement, str] | None = None
    """What was announced last, with its MAC."""
    _left: int = 0
    """How often it is still to be announced."""

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> tuple[Announcement, bool]:
        """What to announce, and whether that is to be done although nothing has changed."""
        underlay = inputs.host.underlay
        local = (underlay.local(4), underlay.local(6))
        addresses = tuple(str(address) for address in local if address is not None)
        return Announcement(underlay.link, addresses), dirty.whole

    def apply(self, desired: tuple[Announcement, bool]) -> Report:
        """Announce it when it, or the device's MAC, is new. Raises OSError, NetlinkError."""
        wanted, anyway = desired
        with NetlinkSocket() as sock:
            link = find_link(sock, wanted.link)
        if link is None or not link.mac:  # a device of the network layer has no neighbours
            return Report()
        if self._last != (wanted, link.mac):
            self._last, self._left = (wanted, link.mac), TIMES
        if not self._left and not anyway:
            return Report()
        frames = [announcement(link.mac, address) for address in wanted.addresses]
        self._sender.send(wanted.link, frames)
        self._left = max(0, self._left - 1)
        return Report()

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """Nothing: a frame changes nothing of this host."""
        del inputs
        return []

    def status(self) -> str | None:
        """Nothing to ask."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Close the packet socket."""
        self._sender.close()

    def cleanup(self) -> list[str]:
        """Nothing stays."""
        return []
