# SPDX-License-Identifier: Apache-2.0
"""Puts right how pods are connected on the host, where another program has changed it.

The kernel is asked once, whatever the number of pods; nothing is changed where nothing differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from base.errors import FlatmeshError
from cni.attachment.store import AttachmentRecord
from cni.config.bridge_config import BridgeConfig
from cni.pod.batch import send_batch
from cni.pod.bridge import ensure_bridge
from cni.pod.veth_pair import VethPair, port_requests
from cni.wiring.compare import (
    BridgeChange,
    PortChange,
    WiredPod,
    bridge_changes,
    has_link_local,
    port_changes,
    recorded,
)
from cni.wiring.port_settings import flags_text, vlans_text
from hostnet.address_mac import link_local
from hostnet.gateway_bridge import addresses_of, ensure_addresses
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.batch import GONE
from hostnet.kinds.link import read_links
from hostnet.kinds.link_messages import change_kind_data, change_link, change_vlan, settings
from hostnet.kinds.links.bridge import Bridge, vlan_filtering_data
from hostnet.netlink.bridge_ports import (
    PVID,
    UNTAGGED,
    dump_ports,
    index_of,
    parse_vlans,
    set_port_flags,
    vlan_bytes,
)
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request

NO_BRIDGE = BridgeConfig("", is_gateway=False, is_default_gateway=False)


@dataclass(slots=True)
class Rewired:
    """What was done."""

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    bridges: frozenset[str] = frozenset()
    """Names of all bridges that pods are ports of."""
    any_pods: bool = False


def rewire(records: Iterable[AttachmentRecord], *, mtu: int = 0, plan: bool = False) -> Rewired:
    """Compare all pods' connections and put them right; with `plan` nothing is changed.

    `mtu` is what new pods get now, in bytes; 0: not known.

    Raises NetlinkError when the kernel can't be asked.
    """
    pods = [pod for record in records if (pod := recorded(record)) is not None]
    done = Rewired(bridges=frozenset(pod.bridge.bridge for pod in pods if pod.bridge is not None))
    done.any_pods = bool(pods)
    if not pods:
        return done
    with NetlinkSocket() as sock:
        links = {link.name: link for link in read_links(sock)}
        vlans = _vlans(sock, pods, links)
        bridges = bridge_changes(pods, links, _addresses(sock, links, done.bridges), vlans, mtu)
        done.lines += [change.line() for change in bridges]
        for bridge in () if plan else bridges:
            with _failing(done, bridge):
                _mend_bridge(sock, bridge)
        if bridges and not plan:
            links = {link.name: link for link in read_links(sock)}
            vlans = _vlans(sock, pods, links)
        ports = port_changes(pods, links, vlans)
        done.lines += [change.line() for change in ports]
        for port in () if plan else ports:
            with _failing(done, port):
                _mend_port(sock, port, links, vlans)
    return done


def _vlans(
    sock: NetlinkSocket, pods: Iterable[WiredPod], links: Mapping[str, ActualLink]
) -> dict[int, dict[int, int]]:
    """The VLANs of all bridges and their ports, by index.

    Not asked for where no bridge of the pods filters them, or should: most hosts.
    """
    bridges = [pod.bridge for pod in pods if pod.bridge is not None]
    filtering = {name for name, link in links.items() if link.vlan_filtering}
    if not any(one.vlan_filtering or one.bridge in filtering for one in bridges):
        return {}
    request = dump_ports()
    parts = sock.dump(request.type, request.body, "bridge vlan show")
    return {index_of(part): parse_vlans(vlan_bytes(part)) for part in parts}


def _addresses(
    sock: NetlinkSocket, links: Mapping[str, ActualLink], bridges: Iterable[str]
) -> dict[str, set[str]]:
    return {name: addresses_of(sock, links[name]) for name in bridges if name in links}


@contextlib.contextmanager
def _failing(done: Rewired, change: BridgeChange | PortChange) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.errno not in GONE:  # the pod ends
            done.failures.append(f"{change.line()}: {error}")
    except (FlatmeshError, OSError) as error:
        done.failures.append(f"{change.line()}: {error}")


def _mend_bridge(sock: NetlinkSocket, change: BridgeChange) -> None:
    bridge = ensure_bridge(sock, change.config, change.gateways)
    if change.mac and bridge.mac != change.mac:
        request = change_link(bridge.index, settings(mac=change.mac))
        send_batch(sock, [request], [f"ip link set {bridge.name} address {change.mac}"])
    more = [change_vlan(bridge.index, vid, on_bridge=True) for vid in change.vlans]
    if change.no_filtering:
        data = vlan_filtering_data(Bridge(vlan_filtering=False))
        more.append(change_kind_data(bridge.index, "bridge", data))
    if more:
        send_batch(sock, more, [change.line()] * len(more))
    if bridge.up and not has_link_local(change.gateways, addresses_of(sock, bridge)):
        # the kernel makes one when a device comes up, but not when it was deleted
        ensure_addresses(sock, bridge, [f"{link_local(change.mac or bridge.mac)}/64"])


def _mend_port(
    sock: NetlinkSocket,
    change: PortChange,
    links: Mapping[str, ActualLink],
    vlans: Mapping[int, Mapping[int, int]],
) -> None:
    pod = change.pod
    link = links[pod.host_name]
    config = pod.bridge or NO_BRIDGE
    bridge = links.get(config.bridge)
    pair = VethPair(pod.host_name, "", "", "", config.mtu, pod.alias)
    requests: list[Request] = []
    lines: list[str] = []
    if bridge is not None and link.master != bridge.index:
        requests.append(change_link(link.index, settings(master=bridge.index)))
        lines.append(f"ip link set {pod.host_name} master {bridge.name}")
        more = port_requests(link.index, pair, bridge, config)
    else:
        more = port_requests(link.index, pair, None, config)
    requests += more[0]
    lines += more[1]
    if config.mtu and link.mtu != config.mtu:
        requests.append(change_link(link.index, settings(mtu=config.mtu)))
        lines.append(f"ip link set {pod.host_name} mtu {config.mtu}")
    if change.flags:
        requests.append(set_port_flags(link.index, change.flags))
        lines.append(f"bridge link set dev {pod.host_name} {flags_text(change.flags)}")
    there = vlans.get(link.index, {})
    for vid in sorted(there.keys() - change.vlans.keys()):
        requests.append(change_vlan(link.index, vid, remove=True))
        lines.append(f"bridge vlan del dev {pod.host_name} vid {vid}")
    for vid, flags in sorted(change.vlans.items() - there.items()):
        pvid, untagged = bool(flags & PVID), bool(flags & UNTAGGED)
        requests.append(change_vlan(link.index, vid, pvid=pvid, untagged=untagged))
        lines.append(f"bridge vlan add dev {pod.host_name} vid {vlans_text({vid: flags})}")
    send_batch(sock, requests, lines)
