# SPDX-License-Identifier: Apache-2.0
"""What a kind of network device is: the protocol that the modules in this folder fit.

A device whose kind has no module here is made without settings of its own (`dummy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.socket import Request

Details = TypeVar("Details")


class DeviceKind(Protocol[Details]):
    """One kind of device. All of it is pure."""

    @property
    def name(self) -> str:
        """IFLA_INFO_KIND, as in `ip link add ... type NAME`."""

    @property
    def details(self) -> type[Any]:
        """The type of `Link.details`: the settings that this kind has of its own."""

    @property
    def adopts_unmarked(self) -> bool:
        """Whether a device of this name and kind that nobody has marked is taken over.

        That is how the devices of a flanneld that was stopped become ours.
        """

    def add(
        self, name: str, common: bytes, details: Details, index: Mapping[str, int]
    ) -> Request | Callable[[], None]:
        """What makes the device: a message, or a function that is called in the namespace.

        `common` are packed attributes that every kind has. Raises LookupError for a device that
        `index` lacks; the function raises OSError.
        """

    def parse(self, found: ActualLink, names: Mapping[int, str]) -> Details | None:
        """The settings of a device that is there; None when they can't be told."""

    def can_become(self, have: Details, want: Details) -> bool:
        """Whether `change` leads from one to the other; else the device is made anew."""

    def change(self, name: str, details: Details) -> Request | None:
        """Set what differs; None for a kind without settings that can be changed."""

    def words(self, details: Details) -> Sequence[str]:
        """The settings, as they follow `ip link add NAME type KIND`."""

    def line(self, name: str, details: Details) -> str | None:
        """The command that makes it, where that is not `ip link add`."""

    def also_makes(self, details: Details) -> Sequence[str]:
        """Names of other devices that are made together with this one."""

    def takes_common(self) -> bool:
        """Whether MTU and MAC are set as the device is made, not after."""
