# SPDX-License-Identifier: Apache-2.0
"""Table `local`: delivery to this host's pods, directly or through kbr0 or the gateway.

What this host sends to others goes on to `remote`; what came from a tunnel ends here, so that
nothing travels from tunnel to tunnel. Under a spanning tree obr0 is a plain learning switch
instead, and Open vSwitch itself blocks the tunnels that would close a loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh import match
from ovs_mesh.inputs import HostInputs, HostSide
from ovs_mesh.pipeline import DROP, Exits, Flow, Stage, Table, Traffic
from ovs_mesh.tables.neighbour import ROUTER_MAC


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    host = inputs.host
    if inputs.config.spanning_tree != "none":
        yield Flow(1, "", "NORMAL")
        return
    routed = inputs.config.mesh != "static"
    if host.on_switch:
        yield from _to_ports(host)
    yield from _to_subnets(host, routed=routed)
    senders = [host.gateway_port, *(pod.ofport for pod in host.pods if pod.ofport is not None)]
    for port in senders:
        yield Flow(30, f"in_port={port}", exits.next(Traffic.HOST))
        if not routed:
            yield Flow(115, f"in_port={port},{match.GRATUITOUS}", exits.next(Traffic.HOST))
    if not routed:
        yield from _to_pods_on_kbr0(host)
        yield Flow(20, match.MULTICAST, f"output:{host.gateway_port}")
        yield Flow(20, "icmp6,icmp_type=136", f"output:{host.gateway_port}")


def _to_ports(host: HostSide) -> Iterator[Flow]:
    """Pods that are ports of obr0, and the gateway addresses on obr0's own device."""
    for pod in host.pods:
        if pod.ofport is None:
            continue
        output = f"output:{pod.ofport}"
        for address in pod.addresses:
            to_pod = f"set_field:{pod.mac}->eth_dst,{output}"
            yield Flow(100, match.destination(address), to_pod)
            yield Flow(110, match.question(address), output)
        yield Flow(110, f"icmp6,icmp_type=136,dl_dst={pod.mac}", output)
    gateway = f"output:{host.gateway_port}"
    for address in host.gateways:
        to_gateway = f"set_field:{host.gateway_mac}->eth_dst,{gateway}"
        yield Flow(100, match.destination(address), to_gateway)
        yield Flow(110, match.question(address), gateway)
    yield Flow(110, f"icmp6,icmp_type=136,dl_dst={host.gateway_mac}", gateway)


def _to_pods_on_kbr0(host: HostSide) -> Iterator[Flow]:
    """Frames as peers send them, but with the MAC that the pod has now.

    A peer may know the address with another one until the announcement of this one has arrived.
    """
    for pod in host.pods:
        if pod.on_kbr0:
            to_pod = f"set_field:{pod.mac}->eth_dst,output:{host.gateway_port}"
            for address in pod.addresses:
                yield Flow(100, match.destination(address), to_pod)


def _to_subnets(host: HostSide, *, routed: bool) -> Iterator[Flow]:
    """The rest of this host's subnets: through kbr0, or nobody's where pods are ports of obr0."""
    gateway = f"output:{host.gateway_port}"
    # kbr0 learns MACs from what it gets: from a tunnel it gets none but the router's
    by_gateway = f"set_field:{ROUTER_MAC}->eth_src,set_field:{host.gateway_mac}->eth_dst,{gateway}"
    for subnet in host.subnets:
        delivery = by_gateway if routed else gateway
        yield Flow(90, match.destination(subnet), DROP if host.on_switch else delivery)
        if not routed:
            # a peer whose mesh was routed a moment ago still sends to the router's MAC
            late = f"{match.destination(subnet)},dl_dst={ROUTER_MAC}"
            yield Flow(95, late, DROP if host.on_switch else by_gateway)
        yield Flow(90, match.question(subnet), DROP if host.on_switch else gateway)


LOCAL = Table("local", Stage.LOCAL, Traffic.ALL, _flows)
