# SPDX-License-Identifier: Apache-2.0
"""What tells that objects of a kind were changed: the protocol that watchers fit.

The kernel sends a message for each change. A watcher never acts on what a message says; it only
decides whether the change is a reason to read the tables again (`hostnet.events`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import LINK_ALIAS, OVERLAY_KINDS, POD_ALIAS, Mark

NETLINK_ROUTE = 0  # linux/netlink.h

Deletion = tuple[str, str]
"""Device, and the address of what was deleted on it."""


@dataclass(slots=True)
class WatchView:
    """What watchers have to know: whose objects, and which devices there are."""

    mark: Mark
    links: dict[int, ActualLink] = field(default_factory=dict)
    """By index; kept up to date by the watcher of devices."""
    deleted: frozenset[Deletion] = frozenset()
    """What a plan that was just applied has deleted: the messages on it are our own."""
    written: frozenset[object] = frozenset()
    """What it has written, of the kinds whose messages have no sender."""

    def is_overlay(self, index: int) -> bool:
        """Whether a device exists for an overlay only."""
        link = self.links.get(index)
        return link is not None and link.kind in OVERLAY_KINDS


class Watcher(Protocol):
    """One kind's judgement of the kernel's messages; an instance belongs to one monitor."""

    @property
    def protocol(self) -> int:
        """NETLINK_*: of the socket that the messages come from."""

    @property
    def groups(self) -> Sequence[int]:
        """RTNLGRP_* or NFNLGRP_*; those that this kernel lacks are left out."""

    @property
    def messages(self) -> Iterable[int]:
        """The types of message that are to be judged."""

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Read what there is when the watch begins. `sock` is rtnetlink. Raises NetlinkError."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Why a message is a reason to read the tables, a few words; None: it is none."""

    def deletion(self, one: object) -> Deletion | None:
        """What a message on the deletion of this object of ours would name.

        None where the message has a sender, by which it is known to be ours.
        """

    def writing(self, one: object) -> object | None:
        """What a message on the writing of this object of ours would name; None likewise."""


def is_of_a_pod(link: ActualLink) -> bool:
    """Whether a device is a pod's: those come and go with the pods."""
    if link.kind != "veth" or link.alias == LINK_ALIAS:
        return False
    return bool(link.master) or link.alias.startswith(POD_ALIAS) or link.name.startswith("veth")
