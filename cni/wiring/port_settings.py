# SPDX-License-Identifier: Apache-2.0
"""Which flags and VLANs a pod's port should have, and how they differ from those it has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cni.config.bridge_config import BridgeConfig
from hostnet.kinds.actual_link import IFF_LOWER_UP, ActualLink
from hostnet.netlink.bridge_ports import (
    DEFAULTS,
    FORWARDING,
    HAIRPIN,
    ISOLATED,
    NAMES,
    PVID,
    STATE,
    UNTAGGED,
)

Vlans = Mapping[int, int]
"""VLANs of a port with their flags."""


def wrong_flags(config: BridgeConfig, port: ActualLink, bridge: ActualLink) -> dict[int, int]:
    """The flags to set, by IFLA_BRPORT_*.

    Those that the ADD asked for; of the others those that this kernel knows, as it makes them.
    """
    wanted = {HAIRPIN: int(config.hairpin), ISOLATED: int(config.isolated)}
    wrong = {kind: on for kind, on in wanted.items() if (port.port_flag(kind) or 0) != on}
    wrong |= {kind: on for kind, on in DEFAULTS.items() if port.port_flag(kind) not in (None, on)}
    carries = port.up and bridge.up and port.flags & IFF_LOWER_UP and not bridge.has_stp
    if carries and port.port_flag(STATE) not in (None, FORWARDING):
        wrong[STATE] = FORWARDING
    return wrong


def wanted_vlans(config: BridgeConfig, default: int) -> dict[int, int]:
    """The VLANs of a port on a bridge that filters them and puts new ports into `default`."""
    wanted = {}
    if default and (config.preserve_default_vlan or not config.vlan_filtering):
        wanted[default] = UNTAGGED if config.vlan else PVID | UNTAGGED
    if config.vlan:
        wanted[config.vlan] = PVID | UNTAGGED
    for first, last in config.vlan_trunk:
        wanted |= dict.fromkeys(range(first, last + 1), 0)
    return wanted


def missing_on_bridge(configs: Iterable[BridgeConfig], vlans: Vlans) -> tuple[int, ...]:
    """The VLANs that a bridge with pods' gateways has to be in itself, and is not."""
    wanted = {config.vlan for config in configs if config.vlan and config.is_gateway}
    return tuple(sorted(wanted - vlans.keys()))


def flags_text(flags: Mapping[int, int]) -> str:
    """As bridge(8) takes them: `learning on flood on`."""
    return " ".join(
        f"{NAMES[kind]} {value if kind == STATE else ('off', 'on')[value]}"
        for kind, value in sorted(flags.items())
    )


def vlans_text(vlans: Vlans) -> str:
    """The numbers: `1, 100 pvid untagged`."""
    names = {0: "", PVID: " pvid", UNTAGGED: " untagged", PVID | UNTAGGED: " pvid untagged"}
    return ", ".join(f"{vid}{names[flags]}" for vid, flags in sorted(vlans.items())) or "none"
