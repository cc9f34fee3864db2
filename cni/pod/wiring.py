"""One pod's cable: a veth from its namespace to a bridge on the host.

Theory of operation
-------------------
Everything is a handful of packed netlink batches. One message makes the pair straight into
both namespaces; the far end's description then tells both indexes. Hardware addresses follow
from the pod's address (0a:58 and the four bytes of the IPv4 address): an address that is
given to another pod later keeps its hardware address, so no neighbour cache is ever wrong.
The host end's name follows from the attachment, so DEL finds it without any record.

Building requests is separate from sending them: what a batch holds is tested without a kernel.

    pod namespace             host namespace
    eth0  <---- veth ---->  veth1a2b3c4d5e6  --port of-->  kbr0 (gateway address)
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cni import cidr
from cni.errors import ATTACHMENT_EXISTS, INVALID_CONFIG, NETWORK_FAILURE, CniError
from cni.pod.bridge_config import BridgeConfig
from cni.result import Ip, Route
from hostnet.address_mac import GATEWAY_PREFIX, mac_after
from hostnet.find_link import find_link
from hostnet.kinds.address import (
    delete_addresses,
    dump_addresses,
    parse_addresses,
    put_addresses,
)
from hostnet.kinds.link import (
    IFF_PROMISC,
    FoundLink,
    add_link,
    add_veth,
    bridge_data,
    bridge_pvid_data,
    change_kind_data,
    change_link,
    change_vlan,
    set_port,
    settings,
)
from hostnet.kinds.route import put_routes
from hostnet.netlink.socket import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    Bulk,
    NetlinkError,
    NetlinkSocket,
    Request,
)
from hostnet.ownership import POD_ALIAS
from hostnet.state import Address, Bridge
from hostnet.state import Route as KernelRoute

RTPROT_BOOT = 3  # linux/rtnetlink.h: what `ip route add` says
UNMARKED = 0  # the pod's own addresses, and the gateway's: no daemon's reconcile sweeps them
DEFAULT_VLAN = 1  # the VLAN a bridge puts new ports into


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair to be made."""

    host_name: str
    pod_name: str
    mac: str
    """Of the pod's end."""
    host_mac: str
    mtu: int
    """Bytes; 0: the kernel's default."""
    alias: str


@dataclass(frozen=True, slots=True)
class Ends:
    """The two namespaces of a cable."""

    host: NetlinkSocket
    pod: NetlinkSocket
    pod_netns: int
    """Open descriptor."""


def host_name(network: str, container_id: str, ifname: str) -> str:
    """The host end's name: `veth` and 44 bits that follow from the attachment."""
    digest = hashlib.sha256(f"{network}\0{container_id}\0{ifname}".encode()).hexdigest()
    return f"veth{digest[:11]}"


def mac_for(ips: Sequence[Ip], prefix: str) -> str:
    """A hardware address that follows from the first address; random when there is none.

    `prefix` is two bytes: `0a:58` for a pod's end and a bridge, `0a:59` for a host end.
    """
    if not ips:
        packed = os.urandom(4)
    else:
        parsed = [cidr.parse(ip.address) for ip in ips]
        family, value, _ = next((c for c in parsed if c.family == 4), parsed[0])
        packed = value.to_bytes(4 if family == 4 else 16, "big")
    return mac_after(packed, prefix)


def send(sock: NetlinkSocket, requests: Sequence[Request], lines: Sequence[str]) -> None:
    """Send a batch; `lines` say each request as a command. Raises the first NetlinkError."""
    errors = sock.execute(requests, lambda index: lines[index])
    if errors:
        raise errors[min(errors)]


def spread(bulk: Bulk) -> list[Request]:
    """Single requests, to stand among others in one batch."""
    return [Request(bulk.type, bulk.flags, body) for body in bulk.bodies]


def ensure_bridge(
    sock: NetlinkSocket, config: BridgeConfig, mtu: int, gateways: Sequence[cidr.Cidr]
) -> FoundLink:
    """The bridge as the config wants it, with the gateways' addresses; made when absent.

    Raises CniError (7) when the name is another device's or an address is in the way.
    """
    found = find_link(sock, config.bridge)
    if found is None:
        _make_bridge(sock, config, mtu, gateways)
        found = find_link(sock, config.bridge)
        if found is None:
            raise CniError(NETWORK_FAILURE, f"bridge {config.bridge} vanished as it was made")
    if found.kind != "bridge":
        raise CniError(
            INVALID_CONFIG, f"bridge: {config.bridge} exists, but is no bridge: name another one"
        )
    if config.vlan_filtering and not found.vlan_filtering:
        _filter_vlans(sock, found)
    common = settings(mtu=mtu) if mtu and mtu != found.mtu and _ours(found) else b""
    promisc = config.promisc and not found.flags & IFF_PROMISC
    if common or promisc or not found.up:
        request = change_link(found.index, common, up=True, promisc=True if promisc else None)
        send(sock, [request], [f"ip link set {config.bridge} up mtu {mtu}"])
    _put_gateways(sock, config, found, gateways)
    return found


def _ours(bridge: FoundLink) -> bool:
    return bridge.alias.startswith(POD_ALIAS)


def _make_bridge(
    sock: NetlinkSocket, config: BridgeConfig, mtu: int, gateways: Sequence[cidr.Cidr]
) -> None:
    mac = mac_for([Ip(str(g)) for g in gateways], GATEWAY_PREFIX)
    common = settings(name=config.bridge, mtu=mtu or None, mac=mac)
    data = bridge_data(Bridge(vlan_filtering=True)) if config.vlan_filtering else b""
    if config.vlan_filtering and not config.preserve_default_vlan:
        data += bridge_pvid_data(0)
    line = f"ip link add {config.bridge} type bridge"
    try:
        sock.request(add_link("bridge", common, data, up=True), line)
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            return  # another ADD was first
        if error.errno == errno.EOPNOTSUPP and config.vlan_filtering:
            raise _no_vlans() from None
        raise
    alias = f"{POD_ALIAS} bridge"
    # an MTU set now, unlike one given at birth, stays when ports come and go
    send(
        sock,
        [change_link(config.bridge, settings(alias=alias, mtu=mtu or None))],
        [f"ip link set {config.bridge} alias '{alias}' mtu {mtu}"],
    )


def _filter_vlans(sock: NetlinkSocket, bridge: FoundLink) -> None:
    data = bridge_data(Bridge(vlan_filtering=True))
    try:
        sock.request(
            change_kind_data(bridge.index, "bridge", data),
            f"ip link set {bridge.name} type bridge vlan_filtering 1",
        )
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise _no_vlans() from None
        raise


def _no_vlans() -> CniError:
    return CniError(
        INVALID_CONFIG,
        "vlan: this kernel's bridge can't filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING); "
        "leave vlan and vlanTrunk out",
    )


def _put_gateways(
    sock: NetlinkSocket, config: BridgeConfig, bridge: FoundLink, gateways: Sequence[cidr.Cidr]
) -> None:
    if not gateways:
        return
    index, names = {bridge.name: bridge.index}, {bridge.index: bridge.name}
    dump = dump_addresses(0, bridge.index)
    parts = sock.dump(dump.type, dump.body, f"ip addr show {bridge.name}")
    present = [
        cidr.parse(found.address.address)
        for found in parse_addresses(parts, names)
        if found.ifindex == bridge.index
    ]
    for gateway in gateways:
        if gateway in present:
            continue
        in_the_way = [p for p in present if p.overlaps(gateway)]
        if in_the_way and not config.force_address:
            raise CniError(
                INVALID_CONFIG,
                f"bridge {bridge.name} already has the address {in_the_way[0]}, which "
                f"overlaps the gateway {gateway}: set forceAddress to replace it",
            )
        new = [Address(bridge.name, str(gateway))]
        old = [Address(bridge.name, str(p)) for p in in_the_way]
        requests = spread(put_addresses(new, index, UNMARKED))
        # A MAC that was never set follows the ports; a gateway's must not, pods remember it.
        requests.append(change_link(bridge.index, settings(mac=bridge.mac)))
        requests += spread(delete_addresses(old, index))
        lines = [
            f"ip addr replace {gateway} dev {bridge.name}",
            f"ip link set {bridge.name} address {bridge.mac}",
        ]
        lines += [f"ip addr del {a.address} dev {bridge.name}" for a in old]
        send(sock, requests, lines)


def plug_in(ends: Ends, cable: Cable, bridge: FoundLink | None, config: BridgeConfig) -> FoundLink:
    """Make the cable; returns the pod's end, whose `parent` is the host end's index.

    The pod's end is down. Raises CniError (102), NetlinkError.
    """
    near = settings(
        name=cable.host_name,
        mtu=cable.mtu or None,
        mac=cable.host_mac,
        master=bridge.index if bridge is not None else None,
    )
    far = settings(
        name=cable.pod_name, mtu=cable.mtu or None, mac=cable.mac, netns_fd=ends.pod_netns
    )
    try:
        ends.host.request(
            add_veth(near, far, host_up=False, peer_up=False),
            f"ip link add {cable.host_name} type veth peer name {cable.pod_name}",
        )
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            raise CniError(
                ATTACHMENT_EXISTS,
                f"interface {cable.pod_name} exists in the container already, or "
                f"{cable.host_name} on the host: DEL comes before another ADD",
            ) from None
        raise
    found = find_link(ends.pod, cable.pod_name)
    if found is None or not found.parent:
        raise CniError(NETWORK_FAILURE, f"{cable.pod_name} vanished as it was made")
    requests, lines = port_requests(found.parent, cable, bridge, config)
    send(ends.host, requests, lines)
    return found


def set_mac(pod: NetlinkSocket, interface: FoundLink, mac: str) -> None:
    """Give the pod's end another hardware address; it is still down. Raises NetlinkError."""
    request = change_link(interface.index, settings(mac=mac))
    send(pod, [request], [f"ip link set {interface.name} address {mac}"])


def port_requests(
    index: int, cable: Cable, bridge: FoundLink | None, config: BridgeConfig
) -> tuple[list[Request], list[str]]:
    """What the host end still needs: its mark, and the settings of a bridge port.

    It comes up only when it is known to make no IPv6 address of its own (and to send no
    neighbour and multicast reports): a port has no business with that.
    """
    requests = [
        change_link(index, settings(alias=cable.alias, addrgenmode="none")),
        change_link(index, up=True),
    ]
    lines = [
        f"ip link set {cable.host_name} alias '{cable.alias}' addrgenmode none",
        f"ip link set {cable.host_name} up",
    ]
    if bridge is None:
        return requests, lines
    if config.hairpin or config.isolated:
        requests.append(
            set_port(index, hairpin=config.hairpin or None, isolated=config.isolated or None)
        )
        lines.append(f"bridge link set dev {cable.host_name} hairpin, isolated")
    if config.vlan_filtering and not config.preserve_default_vlan:
        requests.append(change_vlan(index, DEFAULT_VLAN, remove=True))
        lines.append(f"bridge vlan del dev {cable.host_name} vid {DEFAULT_VLAN}")
    if config.vlan:
        requests.append(change_vlan(index, config.vlan, pvid=True, untagged=True))
        lines.append(f"bridge vlan add dev {cable.host_name} vid {config.vlan} pvid untagged")
        if config.is_gateway:
            requests.append(change_vlan(bridge.index, config.vlan, on_bridge=True))
            lines.append(f"bridge vlan add dev {config.bridge} vid {config.vlan} self")
    for first, last in config.vlan_trunk:
        requests.append(change_vlan(index, first, last=last))
        lines.append(f"bridge vlan add dev {cable.host_name} vid {first}-{last}")
    return requests, lines


def configure_pod(
    pod: NetlinkSocket, interface: FoundLink, ips: Sequence[Ip], routes: Sequence[Route]
) -> None:
    """Bring the pod's end up with its addresses and routes. Raises NetlinkError."""
    requests, lines = pod_requests(interface, ips, routes)
    errors = pod.execute(requests, lambda index: lines[index])
    for index in sorted(errors):
        # a route that the kernel made with the address, or that is listed twice
        if not (lines[index].startswith("ip route") and errors[index].errno == errno.EEXIST):
            raise errors[index]


def pod_requests(
    interface: FoundLink, ips: Sequence[Ip], routes: Sequence[Route]
) -> tuple[list[Request], list[str]]:
    """Up first: addresses and routes of a device that is down don't take."""
    name, index = interface.name, {interface.name: interface.index}
    requests = [change_link(interface.index, up=True)]
    lines = [f"ip link set {name} up"]
    addresses = [Address(name, ip.address) for ip in ips]
    requests += spread(put_addresses(addresses, index, UNMARKED, replace=False))
    lines += [f"ip addr add {ip.address} dev {name}" for ip in ips]
    wanted = [kernel_route(route, name, ips) for route in routes]
    routes_added = put_routes(wanted, index, RTPROT_BOOT, {})
    requests += spread(routes_added._replace(flags=NLM_F_CREATE | NLM_F_APPEND))
    lines += [f"ip route add {r.destination} via {r.via} dev {name}" for r in wanted]
    return requests, lines


def kernel_route(route: Route, link: str, ips: Sequence[Ip]) -> KernelRoute:
    """A result's route as the kernel shall have it.

    Without a gateway of its own it gets that of the address of its family, unless its scope
    says that there is none. A gateway outside all the pod's subnets is reached on the link.
    """
    destination = cidr.parse(route.destination)
    mine = [(cidr.parse(ip.address), ip.gateway) for ip in ips]
    via = route.gateway
    if not via and route.scope in (None, 0):
        via = next((g for a, g in mine if a.family == destination.family and g), "")
    onlink = False
    if via:
        family, value = cidr.parse_address(via)
        target = cidr.Cidr(family, value, cidr.bits(family))
        link_local = family == 6 and value >> 118 == 0xFE80 >> 6
        onlink = not link_local and not any(a.network.contains(target) for a, _ in mine)
    return KernelRoute(
        str(destination.network),
        link,
        via or None,
        onlink=onlink,
        metric=route.priority,
        table=route.table if route.table is not None else KernelRoute._field_defaults["table"],
        mtu=route.mtu,
        advmss=route.advmss,
        scope=route.scope if route.scope is not None else (0 if via else 253),
    )
