# SPDX-License-Identifier: Apache-2.0
"""How pods are connected on the host: what an ADD records of it, and what differs from it now.

    bridge   there, up, with the gateways' addresses; ours also with its MAC and MTU
    port     the host's end of each veth pair: a port of the bridge, up, with its flags and VLANs

The comparison is pure; `cni.wiring.mend` reads the kernel and makes the changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cni import cidr
from cni.attachment.store import AttachmentRecord
from cni.config.bridge_config import BridgeConfig
from cni.pod.naming import DOCKER, PLUGIN, host_interface_alias, host_interface_name
from cni.wiring.port_settings import (
    Vlans,
    flags_text,
    missing_on_bridge,
    vlans_text,
    wanted_vlans,
    wrong_flags,
)
from hostnet.kinds.actual_link import ActualLink
from hostnet.ownership import POD_ALIAS

RECORDED = "wiring"
"""In the metadata of an attachment."""
SOURCE_GUARD = "sourceGuard"
"""Of the same: it names the bridge in records of versions that wrote no wiring."""


class WiredPod(NamedTuple):
    """One pod's connection as its ADD made it."""

    host_name: str
    alias: str
    bridge: BridgeConfig | None
    """None: it is a port of Open vSwitch, which the daemon attaches."""
    gateways: tuple[cidr.Cidr, ...] = ()
    bridge_mac: str = ""
    """Empty: not known, or the bridge is another program's."""
    knows_flags: bool = True
    """Whether the port's flags are known."""


def to_record(
    config: BridgeConfig, bridge: ActualLink | None, gateways: Iterable[cidr.Cidr]
) -> dict[str, Any]:
    """What to store with an attachment. `bridge` None: Open vSwitch takes the pod."""
    ours = bridge is not None and bridge.alias.startswith(POD_ALIAS)
    return {
        "bridge": config.bridge if bridge is not None else "",
        "mac": bridge.mac if bridge is not None and ours else "",
        "gateways": [str(gateway) for gateway in gateways],
        "mtu": config.mtu,
        "hairpin": config.hairpin,
        "promisc": config.promisc,
        "isolated": config.isolated,
        "vlan": config.vlan,
        "vlanTrunk": [list(pair) for pair in config.vlan_trunk],
        "preserveDefaultVlan": config.preserve_default_vlan,
    }


def recorded(record: AttachmentRecord) -> WiredPod | None:
    """The connection of an attachment; None when it isn't ready, or not known."""
    if not record.ready or record.plugin not in (PLUGIN, DOCKER):
        return None
    name, alias = host_interface_name(record.key), host_interface_alias(record.key)
    said = record.metadata.get(RECORDED)
    try:
        if isinstance(said, Mapping):
            return _parse(name, alias, said)
    except (KeyError, TypeError, ValueError):
        return None  # of a version to come
    earlier = record.metadata.get(SOURCE_GUARD)
    if not isinstance(earlier, Mapping) or not isinstance(earlier.get("bridge"), str):
        return None
    bridge = BridgeConfig(earlier["bridge"], is_gateway=False, is_default_gateway=False)
    return WiredPod(name, alias, bridge if bridge.bridge else None, knows_flags=False)


def _parse(name: str, alias: str, said: Mapping[str, Any]) -> WiredPod:
    if not said["bridge"]:
        return WiredPod(name, alias, None)
    gateways = tuple(cidr.parse_cidr(text) for text in said["gateways"])
    config = BridgeConfig(
        str(said["bridge"]),
        is_gateway=bool(gateways),
        is_default_gateway=False,
        mtu=int(said["mtu"]),
        hairpin=bool(said["hairpin"]),
        promisc=bool(said["promisc"]),
        isolated=bool(said["isolated"]),
        vlan=int(said["vlan"]),
        vlan_trunk=tuple((int(first), int(last)) for first, last in said["vlanTrunk"]),
        preserve_default_vlan=bool(said["preserveDefaultVlan"]),
    )
    return WiredPod(name, alias, config, gateways, str(said["mac"]))


class BridgeChange(NamedTuple):
    """What is wrong with a bridge."""

    config: BridgeConfig
    gateways: tuple[cidr.Cidr, ...]
    """All that its pods have."""
    mac: str
    """To set; empty: it is right."""
    why: str
    vlans: tuple[int, ...] = ()
    """That it lacks itself."""
    no_filtering: bool = False
    """Whether it shall filter VLANs no more."""

    def line(self) -> str:
        """As a comment."""
        return f"# bridge {self.config.bridge}: {self.why}"


class PortChange(NamedTuple):
    """What is wrong with the host's end of a veth pair."""

    pod: WiredPod
    why: str
    flags: Mapping[int, int]
    """To set, by IFLA_BRPORT_*."""
    vlans: Vlans
    """All that it is to be in."""

    def line(self) -> str:
        """As a comment."""
        return f"# {self.pod.host_name} ({self.pod.alias}): {self.why}"


def bridge_changes(
    pods: Iterable[WiredPod],
    links: Mapping[str, ActualLink],
    addresses: Mapping[str, Collection[str]],
    vlans: Mapping[int, Vlans],
    mtu: int = 0,
) -> list[BridgeChange]:
    """What is wrong with bridges.

    `addresses` are those on each, with prefix lengths; `vlans` those of bridges and ports, by
    index; `mtu` is what new pods get now. Pods that were made under another backend keep theirs,
    and a bridge is right with any of these.
    """
    by_bridge: dict[str, list[WiredPod]] = {}
    for pod in pods:
        if pod.bridge is not None and pod.host_name in links:
            by_bridge.setdefault(pod.bridge.bridge, []).append(pod)
    changes = []
    for name, its_pods in sorted(by_bridge.items()):
        configs = [pod.bridge for pod in its_pods if pod.bridge is not None and pod.knows_flags]
        config = configs[0] if configs else its_pods[0].bridge
        if config is None:
            continue
        gateways = tuple(dict.fromkeys(g for pod in its_pods for g in pod.gateways))
        mac = next((pod.bridge_mac for pod in its_pods if pod.bridge_mac), "")
        link = links.get(name)
        mtus = {mtu, *(one.mtu for one in configs)} - {0} if config.mtu else set()
        why = _wrong_with_bridge(link, gateways, addresses.get(name, ()), mac, mtus)
        wrong_mac = mac if link is None or link.mac != mac else ""
        change = BridgeChange(config, gateways, wrong_mac, why)
        if link is not None and link.kind == "bridge" and configs:
            change = _with_vlans(change, link, configs, vlans.get(link.index, {}))
        if change.why:
            changes.append(change)
    return changes


def _with_vlans(
    change: BridgeChange, link: ActualLink, configs: Sequence[BridgeConfig], vlans: Vlans
) -> BridgeChange:
    """The change, and what is wrong with the bridge's VLANs."""
    filtering = next((one for one in configs if one.vlan_filtering), None)
    ours = link.alias.startswith(POD_ALIAS)
    why = [change.why]
    if filtering is None and ours and link.vlan_filtering:
        change = change._replace(no_filtering=True)
        why.append("filters VLANs")
    elif filtering is not None and not link.vlan_filtering:
        change = change._replace(config=filtering)
        why.append("does not filter VLANs")
    missing = missing_on_bridge(configs, vlans)
    if missing:
        change = change._replace(vlans=missing)
        why.append(f"is not in VLANs {', '.join(map(str, missing))}")
    return change._replace(why=", ".join(filter(None, why)))


def _wrong_with_bridge(
    link: ActualLink | None,
    gateways: Iterable[cidr.Cidr],
    addresses: Collection[str],
    mac: str,
    mtus: Collection[int],
) -> str:
    if link is None:
        return "is gone"
    if link.kind != "bridge":
        return f"is a {link.kind or 'device'}"
    ours = link.alias.startswith(POD_ALIAS)
    missing = [str(gateway) for gateway in gateways if str(gateway) not in addresses]
    wrong = [
        "" if link.up else "is down",
        f"lacks {' '.join(missing)}" if missing else "",
        "" if has_link_local(gateways, addresses) else "lacks a link-local address",
        f"has MAC {link.mac}" if ours and mac and link.mac != mac else "",
        f"has MTU {link.mtu}" if ours and mtus and link.mtu not in mtus else "",
    ]
    return ", ".join(filter(None, wrong))


def has_link_local(gateways: Iterable[cidr.Cidr], addresses: Collection[str]) -> bool:
    """Whether a gateway of IPv6 can take part in neighbour discovery."""
    ipv6 = any(gateway.family == 6 for gateway in gateways)
    return not ipv6 or any(address.startswith("fe80:") for address in addresses)


def port_changes(
    pods: Iterable[WiredPod], links: Mapping[str, ActualLink], vlans: Mapping[int, Vlans]
) -> list[PortChange]:
    """What is wrong with the hosts' ends; those that are gone, as a pod ends, are left out."""
    changes = []
    for pod in pods:
        link = links.get(pod.host_name)
        if link is None or link.kind != "veth":
            continue
        bridge = links.get(pod.bridge.bridge) if pod.bridge is not None else None
        change = _port_change(pod, link, bridge, vlans.get(link.index, {}))
        if change.why:
            changes.append(change)
    return changes


def _port_change(
    pod: WiredPod, link: ActualLink, bridge: ActualLink | None, vlans: Vlans
) -> PortChange:
    config = pod.bridge
    flags: dict[int, int] = {}
    wanted: Vlans = vlans
    wrong = ["" if link.up else "is down", "" if link.alias == pod.alias else "has another alias"]
    if config is not None and bridge is not None:
        wrong.append("" if link.master == bridge.index else f"is no port of {bridge.name}")
        if pod.knows_flags and link.master == bridge.index:
            flags = wrong_flags(config, link, bridge)
            wrong.append(f"lacks {flags_text(flags)}" if flags else "")
            if bridge.vlan_filtering:
                wanted = wanted_vlans(config, bridge.default_pvid)
                wrong.append("" if wanted == vlans else f"is in VLANs {vlans_text(vlans)}")
        if pod.knows_flags and config.mtu and link.mtu != config.mtu:
            wrong.append(f"has MTU {link.mtu}")
    return PortChange(pod, ", ".join(filter(None, wrong)), flags, wanted)
