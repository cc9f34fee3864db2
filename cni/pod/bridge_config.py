"""The config of a bridge attachment: the reference bridge plugin's keys, read and checked.

| key | default |
|---|---|
| bridge | kbr0 |
| isGateway, isDefaultGateway | true (the reference plugin's: false) |
| mtu | FLANNEL_MTU of the lease; the kernel's where there is none |
| forceAddress, ipMasq, hairpinMode, promiscMode | false |
| macspoofchk, disableContainerInterface, portIsolation | false |
| vlan, vlanTrunk | none |
| preserveDefaultVlan | true |

(containernetworking plugins, docs of the bridge plugin. Unknown keys are tolerated.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni.errors import INVALID_CONFIG, CniError
from cni.request import Request, ifname_problem

MIN_MTU, MAX_MTU = 68, 65535  # bytes: ETH_MIN_MTU and ETH_MAX_MTU, linux/if_ether.h
DEFAULT_BRIDGE = "kbr0"
MAX_VLAN = 4094  # IEEE 802.1Q: 0 and 4095 are reserved

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """How one attachment is wired to the host."""

    bridge: str
    is_gateway: bool
    is_default_gateway: bool
    force_address: bool = False
    ip_masq: bool = False
    mtu: int = 0
    """Bytes; 0: as the lease says, or the kernel's default."""
    hairpin: bool = False
    promisc: bool = False
    isolated: bool = False
    vlan: int = 0
    """Untagged VLAN of the pod; 0: none of its own."""
    vlan_trunk: tuple[tuple[int, int], ...] = ()
    """Tagged VLANs of the pod: first and last, inclusive."""
    preserve_default_vlan: bool = True
    mac_spoof_check: bool = False
    container_interface_up: bool = True
    mac: str = ""
    """The pod's hardware address, asked for; empty: ours to choose."""

    @property
    def vlan_filtering(self) -> bool:
        """Whether the bridge has to tell VLANs apart."""
        return bool(self.vlan or self.vlan_trunk)


def parse(request: Request) -> BridgeConfig:
    """Read a config. Raises CniError (7) that names the key."""
    conf = request.conf
    default_gateway = _flag(conf, "isDefaultGateway", default=True)
    config = BridgeConfig(
        bridge=_bridge(conf),
        # a default gateway has to be one: the reference plugin switches it on as well
        is_gateway=default_gateway or _flag(conf, "isGateway", default=True),
        is_default_gateway=default_gateway,
        force_address=_flag(conf, "forceAddress"),
        ip_masq=_flag(conf, "ipMasq"),
        mtu=_number(conf, "mtu", MIN_MTU, MAX_MTU),
        hairpin=_flag(conf, "hairpinMode"),
        promisc=_flag(conf, "promiscMode"),
        isolated=_flag(conf, "portIsolation"),
        vlan=_number(conf, "vlan", 1, MAX_VLAN),
        vlan_trunk=_trunk(conf),
        preserve_default_vlan=_flag(conf, "preserveDefaultVlan", default=True),
        mac_spoof_check=_flag(conf, "macspoofchk"),
        container_interface_up=not _flag(conf, "disableContainerInterface"),
        mac=_mac(request),
    )
    if config.hairpin and config.promisc:
        raise _wrong("hairpinMode", "cannot set hairpin mode and promiscuous mode at the same time")
    if config.vlan_trunk and config.vlan:
        raise _wrong("vlanTrunk", "vlan and vlanTrunk can't both be given")
    if not config.container_interface_up and conf.get("ipam"):
        raise _wrong("disableContainerInterface", "can't be true with ipam: the interface is down")
    return config


def _wrong(key: str, problem: str) -> CniError:
    return CniError(INVALID_CONFIG, f"{key}: {problem}")


def _flag(conf: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = conf.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(key, f"{value!r} is not true or false")
    return value


def _number(conf: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = conf.get(key)
    if value is None or (value == 0 and not isinstance(value, bool)):
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _wrong(key, f"{value!r} is not a whole number from {least} to {most}")
    return value


def _bridge(conf: Mapping[str, Any]) -> str:
    value = conf.get("bridge")
    if value is None or value == "":
        return DEFAULT_BRIDGE
    if not isinstance(value, str):
        raise _wrong("bridge", f"{value!r} is not an interface name")
    if problem := ifname_problem(value):
        raise _wrong("bridge", f"{value!r} {problem}")
    return value


def _trunk(conf: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    value = conf.get("vlanTrunk")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong("vlanTrunk", "is not a list")
    ranges = []
    for entry in value:
        if not isinstance(entry, Mapping):
            raise _wrong("vlanTrunk", f'{entry!r} is not {{"id": N}} or {{"minID": N, "maxID": M}}')
        single = _number(entry, "id", 1, MAX_VLAN)
        first, last = (_number(entry, k, 1, MAX_VLAN) for k in ("minID", "maxID"))
        if bool(first) != bool(last) or first > last:
            raise _wrong("vlanTrunk", f"{dict(entry)!r}: minID and maxID go together, minID first")
        if single:
            ranges.append((single, single))
        if first:
            ranges.append((first, last))
        if not (single or first):
            raise _wrong("vlanTrunk", f"{dict(entry)!r} names no VLAN")
    return tuple(sorted(set(ranges)))


def _mac(request: Request) -> str:
    """In rising order of authority: CNI_ARGS, args.cni.mac, the `mac` capability."""
    mac: object = ""
    for candidate in (
        request.argument("MAC"),
        request.cni_args.get("mac"),
        request.runtime_config.get("mac"),
    ):
        mac = candidate or mac
    if not mac:
        return ""
    text = mac.lower().replace("-", ":") if isinstance(mac, str) else ""
    if not _MAC.fullmatch(text):
        raise CniError(
            INVALID_CONFIG, f"mac: {mac!r} is not a hardware address like 0a:58:0a:05:01:02"
        )
    if int(text[:2], 16) & 1:
        raise CniError(INVALID_CONFIG, f"mac: {text} is a multicast address")
    return text
