# SPDX-License-Identifier: Apache-2.0
"""Tables `neighbour` and `answer`: ARP requests and neighbour solicitations.

In `flow` and `combined` meshes obr0 is a router, and answers for every address that is not on
this host with the router's MAC. In `static` meshes questions travel to the host that owns the
address.

The kernel's datapath can't make an advertisement of a solicitation (`HostSide.answers_nd`): there
solicitations for other hosts' addresses get no answer. Nothing waits for one: pods send to their
gateway, and the host has a permanent entry for the router (`router_neighbours`).
"""

from __future__ import annotations

from collections.abc import Iterator

from hostnet.kinds.neighbour import Neighbour
from ovs_mesh import match
from ovs_mesh.config import OvsConfig
from ovs_mesh.inputs import HostInputs
from ovs_mesh.pipeline import Exits, Flow, Miss, Stage, Table, Traffic

ROUTER_MAC = "0a:5a:00:00:00:01"  # locally administered; the same on all hosts, never on a wire
ROUTER_IPV4 = "169.254.77.1"  # link-local (RFC 3927): no pod or host has it
ROUTER_IPV6 = "fe80::77:1"

ARP_REPLY = ",".join(
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        f"set_field:{ROUTER_MAC}->eth_src",
        "set_field:2->arp_op",
        "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]",
        f"set_field:{ROUTER_MAC}->arp_sha",
        "move:NXM_OF_ARP_TPA[]->NXM_NX_REG0[]",
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
        "move:NXM_NX_REG0[]->NXM_OF_ARP_SPA[]",
        "IN_PORT",
    )
)
"""Turns an ARP request into its reply (RFC 826: "swap hardware and protocol fields")."""

ADVERTISEMENT_HEADER = ",".join(
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        f"set_field:{ROUTER_MAC}->eth_src",
        "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]",
        "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[]",
        "set_field:136->icmpv6_type",
        "set_field:0->icmpv6_code",
        "set_field:2->nd_options_type",
        "set_field:0xE0000000->nd_reserved",
    )
)
"""Turns a solicitation into an advertisement (RFC 4861 section 4.4; flags router, solicited,
override), all but the link-layer address: OpenFlow lets only a flow that matches an
advertisement set that field, hence table `answer`."""


def router_neighbours(config: OvsConfig, device: str) -> Iterator[Neighbour]:
    """The host's permanent entries for the router, to which it sends what is for other hosts."""
    if config.mesh != "static":
        if config.enable_ipv4:
            yield Neighbour(device, ROUTER_IPV4, ROUTER_MAC)
        if config.enable_ipv6:
            yield Neighbour(device, ROUTER_IPV6, ROUTER_MAC)


def _neighbour(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    config = inputs.config
    if config.spanning_tree != "none":
        return
    on = exits.next(Traffic.NEIGHBOUR)
    for subnet in inputs.host.subnets:
        yield Flow(95, match.question(subnet), on)
    if config.mesh != "static":
        if config.enable_ipv4:
            for target in (ROUTER_IPV4, str(config.network)):
                yield Flow(90, f"{match.question(target)},arp_op=1", ARP_REPLY)
        if config.enable_ipv6 and inputs.host.answers_nd:
            advertise = f"{ADVERTISEMENT_HEADER},{exits.resubmit(ANSWER.name)}"
            for target in (ROUTER_IPV6, str(config.ipv6_network)):
                yield Flow(90, match.question(target), advertise)
    yield Flow(80, "icmp6", on)


def _answer(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    del exits
    config = inputs.config
    if config.mesh != "static" and config.enable_ipv6 and inputs.host.answers_nd:
        finish = f"set_field:{ROUTER_MAC}->nd_tll,IN_PORT"
        yield Flow(100, "icmp6,icmp_type=136,icmp_code=0", finish)


NEIGHBOUR = Table("neighbour", Stage.NEIGHBOUR, Traffic.NEIGHBOUR, _neighbour, miss=Miss.NEXT)
ANSWER = Table("answer", Stage.NEIGHBOUR, Traffic.NONE, _answer, miss=Miss.NONE)
