# SPDX-License-Identifier: Apache-2.0
"""Table `anti-spoof`: a frame of this host carries only addresses that its sender may use.

The host may send from its subnets and its underlay addresses, a pod from its own addresses,
both with their own MAC only, also inside ARP and neighbour discovery. An address of a pod is
also the link-local one that the kernel makes of its MAC; another one that a pod gives itself
can't be told from a neighbour's.

Nobody sends tagged frames, and nobody speaks as a router or a DHCP server: that is dropped from
pods whose network has `spoofCheck` off, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from hostnet.address_mac import link_local
from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, HostSide, PodPort
from ovs_mesh.match import ADVERTISEMENT, LINK_LOCAL, SOLICITATION
from ovs_mesh.pipeline import DROP, Exits, Flow, Stage, Table, Traffic

NO_OPTION = "00:00:00:00:00:00"
"""The link-layer address of a message of neighbour discovery without that option."""


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    host = inputs.host
    yield from _of_port(host.gateway_port, exits)
    yield from _of_host(host, exits)
    for pod in host.pods:
        if pod.ofport is None:
            yield from _of_pod_on_kbr0(pod, host.gateway_port, exits)
        else:
            yield from _of_port(pod.ofport, exits)
            yield from _of_pod_on_switch(pod, pod.ofport, exits)
    if not host.on_switch:
        yield from _of_unknown_pods(host, exits)
    # a stack that has no address yet (DAD, DHCP, group reports) is no attacker: not counted
    yield Flow(106, f"icmp6,icmp_type={SOLICITATION},ipv6_src=::", DROP)
    for kind in (SOLICITATION, ADVERTISEMENT):
        yield Flow(104, f"icmp6,icmp_type={kind}", exits.drop("spoofed"))
    for without in ("ipv6,ipv6_src=::", f"ipv6,ipv6_src={LINK_LOCAL}", "ip,nw_src=0.0.0.0"):
        yield Flow(50, without, DROP)
    yield Flow(50, "arp,arp_spa=0.0.0.0", DROP)
    for protocol in ("ip", "ipv6", "arp"):
        yield Flow(10, protocol, exits.drop("spoofed"))


def _of_port(port: int | str, exits: Exits) -> Iterator[Flow]:
    """What nobody may send; with the port, so that its counters tell whose packets they were."""
    yield Flow(130, f"in_port={port},{match.TAGGED}", exits.drop("tagged"))
    for claim in match.ROUTER_CLAIMS:
        yield Flow(120, f"{claim},in_port={port}", exits.drop("router_claim"))
    for answer in match.DHCP_SERVER:
        yield Flow(120, f"{answer},in_port={port}", exits.drop("dhcp_server"))


def _of_host(host: HostSide, exits: Exits) -> Iterator[Flow]:
    sender = f"in_port={host.gateway_port},dl_src={host.gateway_mac}"
    for subnet in (*host.subnets, *host.sources):
        yield Flow(100, f"{match.source(subnet)},{sender}", exits.next(Traffic.HOST_IP))
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    yield Flow(100, f"arp,{sender},arp_sha={host.gateway_mac}", neighbour)
    for kind in (SOLICITATION, ADVERTISEMENT):
        yield Flow(110, f"icmp6,{sender},icmp_type={kind}", neighbour)


def _of_pod(pod: PodPort, port: int | str, exits: Exits) -> Iterator[Flow]:
    """What a pod may send from its own addresses."""
    sender = f"in_port={port},dl_src={pod.mac}"
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    for address in pod.addresses:
        yield Flow(100, f"{match.source(address)},{sender}", exits.next(Traffic.HOST_IP))
        if ":" not in address:
            about = f"arp,{sender},arp_sha={pod.mac},arp_spa={address}"
            yield Flow(100, about, neighbour)
    own = [address for address in pod.addresses if ":" in address]
    if own:
        own.append(link_local(pod.mac))
    for source, option in product(own, (pod.mac, NO_OPTION)):
        about = f"icmp6,{sender},icmp_type={SOLICITATION},icmp_code=0,ipv6_src={source}"
        yield Flow(110, f"{about},nd_sll={option}", neighbour)
        for target in own:
            about = f"{match.advertisement(target)},{sender},ipv6_src={source}"
            yield Flow(110, f"{about},nd_tll={option}", neighbour)


def _of_pod_on_switch(pod: PodPort, port: int, exits: Exits) -> Iterator[Flow]:
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    if pod.checked:
        yield from _of_pod(pod, port, exits)
        for kind in (SOLICITATION, ADVERTISEMENT):
            yield Flow(105, f"icmp6,in_port={port},icmp_type={kind}", exits.drop("spoofed"))
        yield Flow(12, f"in_port={port}", exits.drop("spoofed"))
        return
    for kind in (SOLICITATION, ADVERTISEMENT):
        yield Flow(110, f"icmp6,in_port={port},icmp_type={kind}", neighbour)
    yield Flow(60, f"arp,in_port={port}", neighbour)
    for protocol in ("ip", "ipv6"):
        yield Flow(60, f"{protocol},in_port={port}", exits.next(Traffic.HOST_IP))


def _of_pod_on_kbr0(pod: PodPort, port: int | str, exits: Exits) -> Iterator[Flow]:
    """With others behind one port: its addresses with another MAC are not its own."""
    yield from _of_pod(pod, port, exits)
    for address in pod.addresses:
        yield from _of_nobody_else(address, port, exits)


def _of_nobody_else(address: str, port: int | str, exits: Exits) -> Iterator[Flow]:
    """Nobody but those whom flows of a higher priority name sends from an address."""
    spoofed = exits.drop("spoofed")
    yield Flow(80, f"{match.source(address)},in_port={port}", spoofed)
    if ":" not in address:
        yield Flow(80, f"arp,in_port={port},arp_spa={address}", spoofed)
        return
    yield Flow(109, f"icmp6,in_port={port},icmp_type={SOLICITATION},ipv6_src={address}", spoofed)
    yield Flow(109, f"{match.advertisement(address)},in_port={port}", spoofed)


def _of_unknown_pods(host: HostSide, exits: Exits) -> Iterator[Flow]:
    """Pods that other plugins put on kbr0: their MACs are not known, their subnet is."""
    port = f"in_port={host.gateway_port}"
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    for gateway in host.gateways:
        yield from _of_nobody_else(gateway, host.gateway_port, exits)
    for subnet in host.subnets:
        yield Flow(70, f"{match.source(subnet)},{port}", exits.next(Traffic.HOST_IP))
        if subnet.version == 4:
            yield Flow(70, f"arp,{port},arp_spa={subnet}", neighbour)
        else:
            about = f"icmp6,{port},icmp_type={SOLICITATION},ipv6_src={subnet}"
            yield Flow(108, about, neighbour)
            yield Flow(108, f"{match.advertisement(subnet)},{port}", neighbour)


ANTI_SPOOF = Table(
    "anti-spoof",
    Stage.HOST_VALIDATION,
    Traffic.HOST,
    _flows,
    drop_reasons={"spoofed": 1, "router_claim": 5, "dhcp_server": 6, "tagged": 7},
)
