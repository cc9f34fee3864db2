"""Table `anti-spoof`: a frame of this host carries only addresses that its sender may use.

The host may send from its subnets and its underlay addresses, a pod from its own addresses,
both with their own MAC only, also inside ARP and neighbour discovery.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, HostSide, PodPort
from ovs_mesh.pipeline import DROP, Exits, Flow, Stage, Table, Traffic

SOLICITATION, ADVERTISEMENT = 135, 136  # ICMPv6 types, RFC 4861
DISCOVERY = (SOLICITATION, ADVERTISEMENT)
LINK_LOCAL = "fe80::/10"


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    host = inputs.host
    yield from _of_host(host, exits)
    for pod in host.pods:
        yield from _of_pod(pod, host, exits)
    if not host.on_switch:
        yield from _of_unknown_pods(host, exits)
    # a stack that has no address yet (DAD, DHCP, group reports) is no attacker: not counted
    for without in ("ipv6,ipv6_src=::", f"ipv6,ipv6_src={LINK_LOCAL}", "ip,nw_src=0.0.0.0"):
        yield Flow(50, without, DROP)
    yield Flow(50, "arp,arp_spa=0.0.0.0", DROP)
    for protocol in ("ip", "ipv6", "arp"):
        yield Flow(10, protocol, exits.drop("spoofed"))


def _of_host(host: HostSide, exits: Exits) -> Iterator[Flow]:
    sender = f"in_port={host.gateway_port},dl_src={host.gateway_mac}"
    for subnet in (*host.subnets, *host.sources):
        yield Flow(100, f"{match.source(subnet)},{sender}", exits.next(Traffic.HOST_IP))
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    yield Flow(100, f"arp,{sender},arp_sha={host.gateway_mac}", neighbour)
    for kind in DISCOVERY:
        yield Flow(110, f"icmp6,{sender},icmp_type={kind}", neighbour)


def _of_pod(pod: PodPort, host: HostSide, exits: Exits) -> Iterator[Flow]:
    port = host.gateway_port if pod.ofport is None else pod.ofport
    sender = f"in_port={port},dl_src={pod.mac}"
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    for address in pod.addresses:
        yield Flow(100, f"{match.source(address)},{sender}", exits.next(Traffic.HOST_IP))
        if ":" in address:
            for kind in DISCOVERY:
                for source in (address, LINK_LOCAL):
                    about = f"icmp6,{sender},icmp_type={kind},ipv6_src={source}"
                    yield Flow(110, about, neighbour)
        else:
            about = f"arp,{sender},arp_sha={pod.mac},arp_spa={address}"
            yield Flow(100, about, neighbour)
        if pod.ofport is None:  # on kbr0 with others: its address with another MAC is not its own
            yield Flow(80, f"{match.source(address)},in_port={port}", exits.drop("spoofed"))
            if ":" not in address:
                yield Flow(80, f"arp,in_port={port},arp_spa={address}", exits.drop("spoofed"))


def _of_unknown_pods(host: HostSide, exits: Exits) -> Iterator[Flow]:
    """Pods that other plugins put on kbr0: their MACs are not known, their subnet is."""
    port = f"in_port={host.gateway_port}"
    neighbour = exits.next(Traffic.HOST_NEIGHBOUR)
    for subnet in host.subnets:
        yield Flow(70, f"{match.source(subnet)},{port}", exits.next(Traffic.HOST_IP))
        if subnet.version == 4:
            yield Flow(70, f"arp,{port},arp_spa={subnet}", neighbour)
        else:
            about = f"icmp6,{port},icmp_type={ADVERTISEMENT},icmp_code=0,nd_target={subnet}"
            yield Flow(75, about, neighbour)


ANTI_SPOOF = Table(
    "anti-spoof", Stage.HOST_VALIDATION, Traffic.HOST, _flows, drop_reasons={"spoofed": 1}
)
