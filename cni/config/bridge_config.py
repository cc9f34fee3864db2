# SPDX-License-Identifier: Apache-2.0
"""The keys of the reference bridge plugin, read and checked.

| key | default |
|---|---|
| bridge | kbr0 |
| isGateway, isDefaultGateway | true (the reference plugin's: false) |
| mtu | FLANNEL_MTU of the lease; the kernel's where there is none |
| forceAddress, ipMasq, hairpinMode, promiscMode | false |
| macspoofchk, disableContainerInterface, portIsolation | false |
| vlan, vlanTrunk | none |
| preserveDefaultVlan | true |
| spoofCheck | true; ours: whether the pod may send from its own addresses only |

(containernetworking plugins, docs of the bridge plugin.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cni.config.environment import ifname_problem
from cni.config.request import CniRequest
from cni.config.runtime_values import requested_mac
from cni.fields import CniFields

MIN_MTU, MAX_MTU = 68, 65535  # bytes: ETH_MIN_MTU and ETH_MAX_MTU, linux/if_ether.h
DEFAULT_BRIDGE = "kbr0"
MAX_VLAN = 4094  # IEEE 802.1Q: 0 and 4095 are reserved


class BridgeConfig(NamedTuple):
    """How one container is attached to the host's bridge."""

    bridge: str
    is_gateway: bool
    is_default_gateway: bool
    force_address: bool = False
    ip_masq: bool = False
    mtu: int = 0
    """Bytes; 0: the lease's, or the kernel's default where there is no lease."""
    hairpin: bool = False
    promisc: bool = False
    isolated: bool = False
    vlan: int = 0
    """The container's untagged VLAN; 0: none."""
    vlan_trunk: tuple[tuple[int, int], ...] = ()
    """The container's tagged VLANs: first and last, both included."""
    preserve_default_vlan: bool = True
    mac_spoof_check: bool = False
    spoof_check: bool = True
    """Whether the pod may send from its own MAC and addresses only."""
    container_interface_up: bool = True
    mac: str = ""
    """The hardware address that the runtime asks for; empty: one that follows from the IP."""

    @property
    def vlan_filtering(self) -> bool:
        """Whether the bridge has to filter VLANs."""
        return bool(self.vlan or self.vlan_trunk)


def parse_bridge_config(request: CniRequest) -> BridgeConfig:
    """Read the keys. Raises CniError (7), which names the key."""
    fields = request.config
    default_gateway = fields.flag("isDefaultGateway", default=True)
    config = BridgeConfig(
        bridge=_bridge(fields),
        # a default gateway has to be a gateway: the reference plugin implies it as well
        is_gateway=default_gateway or fields.flag("isGateway", default=True),
        is_default_gateway=default_gateway,
        force_address=fields.flag("forceAddress"),
        ip_masq=fields.flag("ipMasq"),
        mtu=fields.number_within("mtu", MIN_MTU, MAX_MTU),
        hairpin=fields.flag("hairpinMode"),
        promisc=fields.flag("promiscMode"),
        isolated=fields.flag("portIsolation"),
        vlan=fields.number_within("vlan", 1, MAX_VLAN),
        vlan_trunk=_trunk(fields),
        preserve_default_vlan=fields.flag("preserveDefaultVlan", default=True),
        mac_spoof_check=fields.flag("macspoofchk"),
        spoof_check=fields.flag("spoofCheck", default=True),
        container_interface_up=not fields.flag("disableContainerInterface"),
        mac=requested_mac(request),
    )
    if config.hairpin and config.promisc:
        raise fields.error(
            "hairpinMode", "cannot set hairpin mode and promiscuous mode at the same time"
        )
    if config.vlan_trunk and config.vlan:
        raise fields.error("vlanTrunk", "vlan and vlanTrunk can't both be given")
    if not config.container_interface_up and fields.value("ipam"):
        raise fields.error(
            "disableContainerInterface", "can't be true with ipam: the interface is down"
        )
    return config


def _bridge(fields: CniFields) -> str:
    value = fields.value("bridge")
    if value is None or value == "":
        return DEFAULT_BRIDGE
    if not isinstance(value, str):
        raise fields.error("bridge", f"{value!r} is not an interface name")
    if problem := ifname_problem(value):
        raise fields.error("bridge", f"{value!r} {problem}")
    return value


def _trunk(fields: CniFields) -> tuple[tuple[int, int], ...]:
    value = fields.value("vlanTrunk")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise fields.error("vlanTrunk", "is not a list")
    ranges = []
    for raw in value:
        if not isinstance(raw, Mapping):
            raise fields.error(
                "vlanTrunk", f'{raw!r} is not {{"id": N}} or {{"minID": N, "maxID": M}}'
            )
        entry = CniFields(raw, "", fields.code)
        single = entry.number_within("id", 1, MAX_VLAN)
        first, last = (entry.number_within(key, 1, MAX_VLAN) for key in ("minID", "maxID"))
        if bool(first) != bool(last) or first > last:
            raise fields.error(
                "vlanTrunk", f"{dict(raw)!r}: minID and maxID go together, minID first"
            )
        if single:
            ranges.append((single, single))
        if first:
            ranges.append((first, last))
        if not (single or first):
            raise fields.error("vlanTrunk", f"{dict(raw)!r} names no VLAN")
    return tuple(sorted(set(ranges)))
