# SPDX-License-Identifier: Apache-2.0
"""The Linux bridge that pods are ports of, with the gateway addresses of their subnets."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from cni import cidr
from cni.config.bridge_config import BridgeConfig
from cni.errors import INVALID_CONFIG, NETWORK_FAILURE, CniError
from cni.other_gateway import require_no_other_gateway
from cni.pod.batch import as_requests, send_batch
from cni.pod.naming import mac_for
from cni.result.model import ResultAddress
from hostnet.address_mac import GATEWAY_PREFIX
from hostnet.find_link import find_link
from hostnet.gateway_bridge import make_gateway_bridge
from hostnet.kinds.actual_link import IFF_PROMISC, ActualLink
from hostnet.kinds.link_messages import (
    bridge_pvid_data,
    change_kind_data,
    change_link,
    settings,
)
from hostnet.kinds.links.bridge import Bridge, bridge_data
from hostnet.netlink.address_messages import (
    Address,
    delete_addresses,
    dump_addresses,
    parse_addresses,
    put_addresses,
)
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.ownership import POD_ALIAS

UNMARKED = 0  # protocol of the gateway's addresses: the daemon's reconcile leaves them alone


def ensure_bridge(
    sock: NetlinkSocket, config: BridgeConfig, gateways: Sequence[cidr.Cidr]
) -> ActualLink:
    """The bridge as the config wants it, with the gateways' addresses; made when absent.

    Raises CniError (7) when another device has the name, or when an address of the bridge
    overlaps a gateway's; (100) when another device is in the gateway's network.
    """
    there = require_no_other_gateway(sock, config.bridge, gateways)
    bridge = find_link(sock, config.bridge)
    if bridge is None:
        _make_bridge(sock, config, gateways)
        bridge = find_link(sock, config.bridge)
        if bridge is None:
            raise CniError(NETWORK_FAILURE, f"bridge {config.bridge} vanished as it was made")
    if bridge.kind != "bridge":
        raise CniError(
            INVALID_CONFIG, f"bridge: {config.bridge} exists, but is no bridge: name another one"
        )
    if config.vlan_filtering and not bridge.vlan_filtering:
        _filter_vlans(sock, bridge)
    mtu = config.mtu
    change_mtu = mtu and mtu != bridge.mtu and bridge.alias.startswith(POD_ALIAS)
    promisc = config.promisc and not bridge.flags & IFF_PROMISC
    if change_mtu or promisc or not bridge.up:
        common = settings(mtu=mtu) if change_mtu else b""
        request = change_link(bridge.index, common, up=True, promisc=True if promisc else None)
        send_batch(sock, [request], [f"ip link set {config.bridge} up mtu {mtu}"])
    present = _present(sock, bridge, gateways, there)
    _put_gateways(sock, config, bridge, gateways, present)
    return bridge


def _present(
    sock: NetlinkSocket,
    bridge: ActualLink,
    gateways: Sequence[cidr.Cidr],
    there: Sequence[tuple[int, cidr.Cidr]],
) -> list[cidr.Cidr]:
    """The bridge's addresses; `there` has those of one family already, of all devices."""
    found = [address for index, address in there if index == bridge.index]
    for family in {gateway.family for gateway in gateways} - {one.family for _, one in there}:
        dump = dump_addresses(cidr.FAMILIES[family], bridge.index)
        parts = sock.dump(dump.type, dump.body, f"ip addr show {bridge.name}")
        found += [
            cidr.parse_cidr(each.address.address)
            for each in parse_addresses(parts, {bridge.index: bridge.name})
            if each.ifindex == bridge.index
        ]
    return found


def _make_bridge(sock: NetlinkSocket, config: BridgeConfig, gateways: Sequence[cidr.Cidr]) -> None:
    mac = mac_for([ResultAddress(str(g)) for g in gateways], GATEWAY_PREFIX)
    mtu = config.mtu or None
    data = bridge_data(Bridge(vlan_filtering=True)) if config.vlan_filtering else b""
    if config.vlan_filtering and not config.preserve_default_vlan:
        data += bridge_pvid_data(0)
    try:
        make_gateway_bridge(sock, config.bridge, mtu, mac, data)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP and config.vlan_filtering:
            raise _no_vlan_filtering() from None
        raise


def _filter_vlans(sock: NetlinkSocket, bridge: ActualLink) -> None:
    data = bridge_data(Bridge(vlan_filtering=True))
    try:
        sock.request(
            change_kind_data(bridge.index, "bridge", data),
            f"ip link set {bridge.name} type bridge vlan_filtering 1",
        )
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise _no_vlan_filtering() from None
        raise


def _no_vlan_filtering() -> CniError:
    return CniError(
        INVALID_CONFIG,
        "vlan: this kernel's bridge can't filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING); "
        "leave vlan and vlanTrunk out",
    )


def _put_gateways(
    sock: NetlinkSocket,
    config: BridgeConfig,
    bridge: ActualLink,
    gateways: Sequence[cidr.Cidr],
    present: Sequence[cidr.Cidr],
) -> None:
    index = {bridge.name: bridge.index}
    for gateway in gateways:
        if gateway in present:
            continue
        overlapping = [p for p in present if p.overlaps(gateway)]
        if overlapping and not config.force_address:
            raise CniError(
                INVALID_CONFIG,
                f"bridge {bridge.name} already has the address {overlapping[0]}, which "
                f"overlaps the gateway {gateway}: set forceAddress to replace it",
            )
        new = [Address(bridge.name, str(gateway))]
        old = [Address(bridge.name, str(p)) for p in overlapping]
        requests = as_requests(put_addresses(new, index, UNMARKED))
        # A bridge whose MAC was never set takes one of its ports' as they come and go. Pods
        # have the gateway's MAC in their neighbour caches, so it is set to what it is.
        requests.append(change_link(bridge.index, settings(mac=bridge.mac)))
        requests += as_requests(delete_addresses(old, index))
        lines = [
            f"ip addr replace {gateway} dev {bridge.name}",
            f"ip link set {bridge.name} address {bridge.mac}",
        ]
        lines += [f"ip addr del {a.address} dev {bridge.name}" for a in old]
        send_batch(sock, requests, lines)
