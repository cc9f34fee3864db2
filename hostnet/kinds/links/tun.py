# SPDX-License-Identifier: Apache-2.0
"""Persistent TUN devices (linux/if_tun.h, linux/if_link.h: IFLA_TUN_*).

The kernel makes none by netlink (RTM_NEWLINK answers EOPNOTSUPP): a device is made by attaching a
queue to it and asking for it to stay (`hostnet.kinds.tun`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.tun import make_persistent

IFLA_TUN_MULTI_QUEUE = 7


@dataclass(frozen=True, slots=True)
class Tun:
    """How packets are handed over. Any change needs the device made anew."""

    multi_queue: bool = True
    """Several queues, each packet behind a struct virtio_net_hdr; else one plain queue."""


class TunKind:
    """Fits `hostnet.kinds.links.device_kind.DeviceKind`."""

    name = "tun"
    details = Tun
    adopts_unmarked = False
    """A program that is not stopped, as flanneld, has its device attached."""

    def add(
        self, name: str, common: bytes, details: Tun, index: Mapping[str, int]
    ) -> Callable[[], None]:
        """Make it in the caller's namespace; without a queue attached it drops packets."""
        del common, index
        return lambda: make_persistent(name, single=not details.multi_queue)

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Tun:
        """One queue or several."""
        del names
        return Tun(found.data.get(IFLA_TUN_MULTI_QUEUE) == b"\1")

    def can_become(self, have: Tun, want: Tun) -> bool:
        """The number of queues is fixed as the device is made."""
        return have == want

    def change(self, name: str, details: Tun) -> None:
        """Nothing can be changed."""

    def words(self, details: Tun) -> Sequence[str]:
        """`multi_queue vnet_hdr`, where there are several queues."""
        return ("multi_queue", "vnet_hdr") if details.multi_queue else ()

    def line(self, name: str, details: Tun) -> str:
        """`ip tuntap add dev NAME mode tun`: `ip link add` makes none."""
        return " ".join(["ip tuntap add dev", name, "mode tun", *self.words(details)])

    def also_makes(self, details: Tun) -> Sequence[str]:
        """Nothing."""
        del details
        return ()

    def takes_common(self) -> bool:
        """Set after."""
        return False
