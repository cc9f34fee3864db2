# SPDX-License-Identifier: Apache-2.0
"""Floating addresses on this host's device, and their announcements. Any thread; brief calls."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from hostnet.announcements import FrameSender, announcement
from hostnet.kernel import Kernel
from hostnet.netlink.address_messages import Address
from hostnet.netlink.floating_address import FLOATING, delete_floating, put_floating


@dataclass(frozen=True, slots=True)
class HostPlace:
    """This host, as the list of an address may name it, and where its clients are."""

    names: tuple[str, ...]
    """Addresses on the underlay first, then its name."""
    link: str
    mac: str


@dataclass(slots=True)
class FloatingAddresses:
    """Those of one namespace."""

    _sender: FrameSender = field(default_factory=FrameSender)

    def put(self, place: HostPlace, addresses: Collection[str], seconds: int) -> bool:
        """Hold them for some seconds; whether one of them is new. Raises OSError, NetlinkError."""
        with Kernel() as kernel:
            held = {
                one.address.address.partition("/")[0]
                for one in kernel.addresses()
                if one.address.link == place.link
            }
            index = {link.name: link.index for link in kernel.links()}[place.link]
            batch = put_floating(_on(place.link, addresses), index, seconds)
            for error in kernel.socket.execute_batch(batch).values():
                raise error
        return not held >= set(addresses)

    def drop(self, place: HostPlace, addresses: Collection[str]) -> None:
        """Hold them no longer; that one is gone already is fine. Raises OSError."""
        with Kernel() as kernel:
            index = {link.name: link.index for link in kernel.links()}.get(place.link)
            if index is not None:
                kernel.socket.execute_batch(delete_floating(_on(place.link, addresses), index))

    def announce(self, place: HostPlace, addresses: Collection[str]) -> None:
        """Tell neighbours that they are here. Raises OSError."""
        self._sender.send(place.link, [announcement(place.mac, one) for one in addresses])

    def drop_all(self) -> list[str]:
        """Remove all that have our mark; their addresses."""
        with Kernel() as kernel:
            index = {link.name: link.index for link in kernel.links()}
            found = [one.address for one in kernel.addresses() if one.protocol == FLOATING]
            for one in found:
                kernel.socket.execute_batch(delete_floating([one], index[one.link]))
        return [one.address for one in found]


def _on(link: str, addresses: Collection[str]) -> list[Address]:
    return [Address(link, f"{one}/{128 if ':' in one else 32}") for one in addresses]
