# SPDX-License-Identifier: Apache-2.0
"""The kinds of network device that have settings of their own: a module and a line each."""

from __future__ import annotations

from typing import Any

from hostnet.kinds.links.bridge import BridgeKind
from hostnet.kinds.links.device_kind import DeviceKind
from hostnet.kinds.links.tun import TunKind
from hostnet.kinds.links.veth import VethKind
from hostnet.kinds.links.vxlan import VxlanKind

DEVICE_KINDS: list[DeviceKind[Any]] = [BridgeKind(), TunKind(), VethKind(), VxlanKind()]


def device_kind(name: str) -> DeviceKind[Any] | None:
    """The kind of this name (IFLA_INFO_KIND), if it has settings of its own."""
    return next((kind for kind in DEVICE_KINDS if kind.name == name), None)
