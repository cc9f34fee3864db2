# SPDX-License-Identifier: Apache-2.0
"""The veth pair between a pod's namespace and the host.

    pod namespace             host namespace
    eth0  <---- veth ---->  veth1a2b3c4d5e6  --port of-->  kbr0 (gateway address)

One netlink message makes both ends, each in its namespace; the description of the pod's end
then gives the index of both. The functions that build requests are apart from those that send
them, so that tests check a batch without a kernel.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from cni.config.bridge_config import BridgeConfig
from cni.errors import ATTACHMENT_EXISTS, NETWORK_FAILURE, CniError
from cni.pod.batch import send_batch
from hostnet.find_link import find_index, find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_veth, change_link, change_vlan, set_port, settings
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request

DEFAULT_VLAN = 1  # the VLAN a bridge puts new ports into


class VethPair(NamedTuple):
    """A veth pair to be made."""

    host_name: str
    pod_name: str
    mac: str
    """Of the pod's end."""
    host_mac: str
    mtu: int
    """Bytes; 0: the kernel's default."""
    alias: str
    """Of the host's end."""


class PodSockets(NamedTuple):
    """Netlink sockets in the two namespaces of a veth pair."""

    host: NetlinkSocket
    pod: NetlinkSocket
    pod_netns: int
    """An open descriptor of the pod's namespace."""
    own_netns: int
    """An open descriptor of this thread's namespace, the host's."""


def attach_veth(
    sockets: PodSockets, pair: VethPair, bridge: ActualLink | None, config: BridgeConfig
) -> ActualLink:
    """Make the pair and attach it to the bridge, if there is one.

    Returns the pod's end, which is down and whose `parent` is the index of the host's end.
    Raises CniError (102), NetlinkError.
    """
    host_settings = settings(
        name=pair.host_name,
        mtu=pair.mtu or None,
        mac=pair.host_mac,
        master=bridge.index if bridge is not None else None,
    )
    pod_settings = settings(
        name=pair.pod_name, mtu=pair.mtu or None, mac=pair.mac, netns_fd=sockets.pod_netns
    )
    try:
        sockets.host.request(
            add_veth(host_settings, pod_settings, host_up=False, peer_up=False),
            f"ip link add {pair.host_name} type veth peer name {pair.pod_name}",
        )
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            raise CniError(
                ATTACHMENT_EXISTS,
                f"interface {pair.pod_name} exists in the container already, or "
                f"{pair.host_name} on the host: DEL comes before another ADD",
            ) from None
        raise
    interface = _pod_end(sockets, pair)
    requests, lines = port_requests(interface.parent, pair, bridge, config)
    send_batch(sockets.host, requests, lines)
    return interface


def _pod_end(sockets: PodSockets, pair: VethPair) -> ActualLink:
    """The pod's end, with what is needed of it. Raises CniError (100) when it has vanished.

    Two ioctls instead of a netlink message with all that the kernel knows of the device, which
    takes 0.07 ms of an ADD. Only the MTU that the kernel chooses has to be read.
    """
    if pair.mtu:
        index = find_index(sockets.pod, pair.pod_name)
        parent = find_index(sockets.host, pair.host_name)
        end = ActualLink(pair.pod_name, index, "veth", mtu=pair.mtu, mac=pair.mac, parent=parent)
    else:
        end = find_link(sockets.pod, pair.pod_name) or ActualLink(pair.pod_name, 0)
    if not end.index or not end.parent:
        raise CniError(NETWORK_FAILURE, f"{pair.pod_name} vanished as it was made")
    return end


def set_mac(pod: NetlinkSocket, interface: ActualLink, mac: str) -> None:
    """Give the pod's end, which is still down, another hardware address. Raises NetlinkError."""
    request = change_link(interface.index, settings(mac=mac))
    send_batch(pod, [request], [f"ip link set {interface.name} address {mac}"])


def port_requests(
    index: int, pair: VethPair, bridge: ActualLink | None, config: BridgeConfig
) -> tuple[list[Request], list[str]]:
    """What the host's end, of this index, still needs: its alias, up, and its port settings.

    `addrgenmode none` is set before it comes up: a bridge port must not make an IPv6 address
    of its own, nor send neighbour and multicast reports for one.
    """
    requests = [
        change_link(index, settings(alias=pair.alias, addrgenmode="none")),
        change_link(index, up=True),
    ]
    lines = [
        f"ip link set {pair.host_name} alias '{pair.alias}' addrgenmode none",
        f"ip link set {pair.host_name} up",
    ]
    if bridge is None:
        return requests, lines
    if config.hairpin or config.isolated:
        requests.append(
            set_port(index, hairpin=config.hairpin or None, isolated=config.isolated or None)
        )
        lines.append(f"bridge link set dev {pair.host_name} hairpin, isolated")
    if config.vlan_filtering and not config.preserve_default_vlan:
        requests.append(change_vlan(index, DEFAULT_VLAN, remove=True))
        lines.append(f"bridge vlan del dev {pair.host_name} vid {DEFAULT_VLAN}")
    if config.vlan:
        requests.append(change_vlan(index, config.vlan, pvid=True, untagged=True))
        lines.append(f"bridge vlan add dev {pair.host_name} vid {config.vlan} pvid untagged")
        if config.is_gateway:
            requests.append(change_vlan(bridge.index, config.vlan, on_bridge=True))
            lines.append(f"bridge vlan add dev {config.bridge} vid {config.vlan} self")
    for first, last in config.vlan_trunk:
        requests.append(change_vlan(index, first, last=last))
        lines.append(f"bridge vlan add dev {pair.host_name} vid {first}-{last}")
    return requests, lines
