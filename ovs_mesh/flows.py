"""The OpenFlow pipeline of obr0 as data: pure, one text line per flow in ovs-ofctl(8) syntax.

    table  name       what it does
    0      classify   where from: this host, a pod, a tunnel of ours; anything else is dropped
    10     anti-spoof a frame of this host bears an identity that this host may use
    20     ingress    a frame from a tunnel has an inner source that its sender owns
    30     neighbour  ARP and ND: answered here (flow), or sent to the one owner (static)
    31     answer     the last touch to an answer to ND
    40     local      to this host's pods
    50     remote     to the peer that owns the destination
    60-    flood      static only: broadcast of ours to every peer, never from peer to peer
    250    dropped    what tells of an attack or a fault: a flow per reason (COUNTED), so that
                      its counter says how many

In `flow` and `combined` meshes the switch is a router: hosts send what is
for other hosts to ROUTER, whose MAC answers for every remote pod; TTL goes down by one. In
`static` it is a switch: frames pass unchanged, and split horizon is in the tables themselves,
since nothing that came from a tunnel ever reaches `remote` or `flood`.

With a spanning tree (IEEE 802.1D, 802.1w) a `static` mesh is a plain learning switch instead:
Open vSwitch blocks the tunnels that would close a loop, and frames may pass through a third
host, also where the underlay between two of them is broken. So an inner source is checked to be
of some peer, not of the one whose tunnel it came from.

Sources: ovs-actions(7), ovs-fields(7), ovs-ofctl(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ovs_mesh.config import Network, OvsConfig
from ovs_mesh.topology import Peer

COOKIE = 0xF1A7_3E54_0000_0001
"""On every flow of ours, and on nobody else's: what bears another is left alone."""
CLASSIFY, SPOOF, INGRESS, NEIGHBOUR, ANSWER, LOCAL, REMOTE, FLOOD = 0, 10, 20, 30, 31, 40, 50, 60
DROPPED = 250
ROUTER_MAC = "0a:5a:00:00:00:01"  # locally administered; the same on all hosts, never on a wire
ROUTER_IPV4 = "169.254.77.1"  # link-local (RFC 3927): no pod or host has it
ROUTER_IPV6 = "fe80::77:1"
FLOOD_CHUNK = 400  # outputs per flow: an OpenFlow message ends at 64 KiB
COUNTED = {1: "spoofed", 2: "forged", 3: "wrong_key", 4: "no_peer"}
"""Why packets are dropped, as far as it is told, by its number in reg1."""
MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class PodPort:
    """A pod: its identity, and where it is attached."""

    mac: str
    addresses: tuple[str, ...]
    ofport: int | None = None
    """Its port of obr0; None: it is behind the Linux bridge."""


@dataclass(frozen=True, slots=True)
class LocalSide:
    """This host's side of the switch."""

    gateway_port: int | str
    """ofport of the cable to kbr0, or LOCAL."""
    gateway_mac: str
    gateways: tuple[str, ...]
    """The gateway addresses, without prefix length."""
    subnets: tuple[Network, ...]
    sources: tuple[str, ...]
    """Underlay addresses of this host: what it may send from, too."""
    pods: tuple[PodPort, ...] = ()
    on_switch: bool = False
    """Whether pods are ports of obr0."""


@dataclass(slots=True)
class Pipeline:
    """Collects flows."""

    lines: list[str] = field(default_factory=list)

    def add(self, table: int, priority: int, match: str, actions: str) -> None:
        """One flow; `actions` empty means drop."""
        comma = "," if match else ""
        self.lines.append(
            f"cookie={COOKIE:#x},table={table},priority={priority}{comma}{match}"
            f" actions={actions or 'drop'}"
        )


@dataclass(slots=True)
class PeerFlows:
    """Flows of peers, kept from one pipeline to the next.

    Text is what costs: of thousands of peers, only those that changed are written anew. A peer
    is known by its identity, so the caller keeps the `Peer` of a lease that didn't change.
    """

    _side: tuple[object, ...] = ()
    """What they depend on beside the peer."""
    _kept: dict[int, tuple[Peer, int, list[str]]] = field(default_factory=dict)
    """By id(peer), which stays taken as long as the peer is in here."""

    def of(
        self,
        config: OvsConfig,
        peers: Iterable[Peer],
        ofports: Mapping[str, int],
        local: LocalSide,
    ) -> list[str]:
        """The flows of these peers; others are forgotten."""
        routed, tree = config.mesh != "static", config.spanning_tree != "none"
        side = (routed, tree, local.subnets, local.gateway_mac)
        before = self._kept if side == self._side else {}
        self._side, self._kept = side, {}
        lines: list[str] = []
        for peer in peers:
            ofport = ofports[peer.port]
            known = before.get(id(peer))
            if known is None or known[1] != ofport:
                flows = Pipeline()
                if tree:
                    _ingress_by_tree(flows, peer)
                else:
                    _ingress_from(flows, peer, ofport, local, routed=routed)
                    _remote_to(flows, peer, ofport, local, routed=routed)
                known = (peer, ofport, flows.lines)
            self._kept[id(peer)] = known
            lines += known[2]
        return lines


def pipeline(
    config: OvsConfig,
    local: LocalSide,
    peers: Sequence[Peer],
    ofports: Mapping[str, int],
    kept: PeerFlows | None = None,
) -> list[str]:
    """All flows of obr0. Peers whose port `ofports` lacks are left out for now."""
    flows = Pipeline()
    present = [peer for peer in peers if peer.port in ofports]
    routed = config.mesh != "static"
    _classify(flows, local, present, ofports)
    _anti_spoof(flows, local)
    _ingress(flows)
    if config.spanning_tree != "none":
        _switch(flows, local)
    else:
        _neighbour(flows, config, local, routed=routed)
        _local(flows, local, routed=routed)
        if routed:
            _remote_routed(flows, local)
        else:
            _remote_switched(flows, local, present, ofports)
    for number in COUNTED:
        flows.add(DROPPED, 1, f"reg1={number}", "")
    flows.add(DROPPED, 0, "", "")
    peer_flows = kept if kept is not None else PeerFlows()
    return flows.lines + peer_flows.of(config, present, ofports, local)


def dropped(reason: str) -> str:
    """Actions: drop, and count why."""
    number = next(n for n, name in COUNTED.items() if name == reason)
    return f"set_field:{number}->reg1,goto_table:{DROPPED}"


def dst(network: Network | str) -> str:
    """Match a destination: `ip,nw_dst=10.5.2.0/24`."""
    text = str(network)
    return f"ipv6,ipv6_dst={text}" if ":" in text else f"ip,nw_dst={text}"


def src(network: Network | str) -> str:
    """Match a source."""
    text = str(network)
    return f"ipv6,ipv6_src={text}" if ":" in text else f"ip,nw_src={text}"


def asked(network: Network | str) -> str:
    """Match a question for an address: ARP, or a neighbour solicitation."""
    text = str(network)
    if ":" in text:
        return f"icmp6,icmp_type=135,icmp_code=0,nd_target={text}"
    return f"arp,arp_tpa={text}"


def _classify(
    flows: Pipeline, local: LocalSide, peers: Sequence[Peer], ofports: Mapping[str, int]
) -> None:
    flows.add(CLASSIFY, 100, f"in_port={local.gateway_port}", f"goto_table:{SPOOF}")
    for pod in local.pods:
        if pod.ofport is not None:
            flows.add(CLASSIFY, 100, f"in_port={pod.ofport}", f"goto_table:{SPOOF}")
    shared = {p.port: p.tunnel for p in peers if p.chosen_by_flow}
    for name, tunnel in shared.items():
        match = f"in_port={ofports[name]}"
        flows.add(CLASSIFY, 100, f"tun_id={tunnel.key},{match}", f"goto_table:{INGRESS}")
        flows.add(CLASSIFY, 90, match, dropped("wrong_key"))
    for name in sorted({p.port for p in peers if not p.chosen_by_flow}):
        flows.add(CLASSIFY, 100, f"in_port={ofports[name]}", f"goto_table:{INGRESS}")
    flows.add(CLASSIFY, 0, "", "")


def _anti_spoof(flows: Pipeline, local: LocalSide) -> None:
    host = f"in_port={local.gateway_port},dl_src={local.gateway_mac}"
    for subnet in (*local.subnets, *local.sources):
        flows.add(SPOOF, 100, f"{src(subnet)},{host}", f"goto_table:{LOCAL}")
    flows.add(SPOOF, 100, f"arp,{host},arp_sha={local.gateway_mac}", f"goto_table:{NEIGHBOUR}")
    for kind in (135, 136):
        flows.add(SPOOF, 110, f"icmp6,{host},icmp_type={kind}", f"goto_table:{NEIGHBOUR}")
    for pod in local.pods:
        port = local.gateway_port if pod.ofport is None else pod.ofport
        mine = f"in_port={port},dl_src={pod.mac}"
        for address in pod.addresses:
            flows.add(SPOOF, 100, f"{src(address)},{mine}", f"goto_table:{LOCAL}")
            if ":" in address:
                for kind in (135, 136):
                    for source in (address, "fe80::/10"):
                        match = f"icmp6,{mine},icmp_type={kind},ipv6_src={source}"
                        flows.add(SPOOF, 110, match, f"goto_table:{NEIGHBOUR}")
            else:
                match = f"arp,{mine},arp_sha={pod.mac},arp_spa={address}"
                flows.add(SPOOF, 100, match, f"goto_table:{NEIGHBOUR}")
            if pod.ofport is None:  # behind the bridge: its address with another MAC is a lie
                flows.add(SPOOF, 80, f"{src(address)},in_port={port}", dropped("spoofed"))
                if ":" not in address:
                    match = f"arp,in_port={port},arp_spa={address}"
                    flows.add(SPOOF, 80, match, dropped("spoofed"))
    if not local.on_switch:  # pods that other plugins put on the bridge
        for subnet in local.subnets:
            where = f"in_port={local.gateway_port}"
            flows.add(SPOOF, 70, f"{src(subnet)},{where}", f"goto_table:{LOCAL}")
            if subnet.version == 4:
                flows.add(SPOOF, 70, f"arp,{where},arp_spa={subnet}", f"goto_table:{NEIGHBOUR}")
            else:
                match = f"icmp6,{where},icmp_type=136,icmp_code=0,nd_target={subnet}"
                flows.add(SPOOF, 75, match, f"goto_table:{NEIGHBOUR}")
    # what a stack says before it has an address (DAD, DHCP, reports) is no attack: not counted
    for match in ("ipv6,ipv6_src=::", "ipv6,ipv6_src=fe80::/10", "ip,nw_src=0.0.0.0"):
        flows.add(SPOOF, 50, match, "")
    flows.add(SPOOF, 50, "arp,arp_spa=0.0.0.0", "")
    for match in ("ip", "ipv6", "arp"):
        flows.add(SPOOF, 10, match, dropped("spoofed"))
    flows.add(SPOOF, 0, "", "")


def _ingress(flows: Pipeline) -> None:
    for match in ("ip", "ipv6", "arp"):
        flows.add(INGRESS, 10, match, dropped("forged"))
    flows.add(INGRESS, 0, "", "")


def _ingress_from(
    flows: Pipeline, peer: Peer, ofport: int, local: LocalSide, *, routed: bool
) -> None:
    where = f"in_port={ofport}"
    if peer.chosen_by_flow:
        name = "tun_ipv6_src" if ":" in peer.remote else "tun_src"
        where = f"{name}={peer.remote},{where}"
    for network in (*peer.subnets, *peer.sources):
        flows.add(INGRESS, 100, f"{src(network)},{where}", f"goto_table:{LOCAL}")
    if routed:
        return
    for network in peer.subnets:
        if network.version == 4:
            match = f"arp,{where},arp_spa={network}"
            flows.add(INGRESS, 100, match, f"goto_table:{NEIGHBOUR}")
            continue
        for mine in (s for s in local.subnets if s.version == 6):
            match = f"icmp6,{where},icmp_type=135,icmp_code=0,nd_target={mine}"
            flows.add(INGRESS, 110, match, f"goto_table:{LOCAL}")
        match = f"icmp6,{where},icmp_type=136,icmp_code=0,nd_target={network}"
        flows.add(INGRESS, 110, match, f"goto_table:{LOCAL}")


def _ingress_by_tree(flows: Pipeline, peer: Peer) -> None:
    for network in (*peer.subnets, *peer.sources):
        flows.add(INGRESS, 100, src(network), f"goto_table:{LOCAL}")
    for network in peer.subnets:
        if network.version == 4:
            flows.add(INGRESS, 100, f"arp,arp_spa={network}", f"goto_table:{LOCAL}")
        else:
            flows.add(INGRESS, 110, asked(network), f"goto_table:{LOCAL}")
            match = f"icmp6,icmp_type=136,icmp_code=0,nd_target={network}"
            flows.add(INGRESS, 110, match, f"goto_table:{LOCAL}")


def _switch(flows: Pipeline, local: LocalSide) -> None:
    for network in local.subnets:
        if network.version == 6:  # asked by a host, whose link-local source nobody leases
            flows.add(INGRESS, 110, asked(network), f"goto_table:{LOCAL}")
    flows.add(NEIGHBOUR, 0, "", f"goto_table:{LOCAL}")
    flows.add(LOCAL, 0, "", "NORMAL")


def _neighbour(flows: Pipeline, config: OvsConfig, local: LocalSide, *, routed: bool) -> None:
    for subnet in local.subnets:
        flows.add(NEIGHBOUR, 95, asked(subnet), f"goto_table:{LOCAL}")
    if routed:
        if config.enable_ipv4:
            for target in (ROUTER_IPV4, str(config.network)):
                flows.add(NEIGHBOUR, 90, f"{asked(target)},arp_op=1", ARP_ANSWER)
        if config.enable_ipv6:
            for address in (ROUTER_IPV6, str(config.ipv6_network)):
                flows.add(NEIGHBOUR, 90, asked(address), ND_ANSWER)
            advertised = f"set_field:{ROUTER_MAC}->nd_tll,IN_PORT"
            flows.add(ANSWER, 100, "icmp6,icmp_type=136,icmp_code=0", advertised)
    flows.add(NEIGHBOUR, 80, "icmp6", f"goto_table:{LOCAL}")
    flows.add(NEIGHBOUR, 0, "", f"goto_table:{LOCAL}")


ARP_ANSWER = ",".join(
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
"""Turn an ARP request round: RFC 826, "swap hardware and protocol fields"."""

ND_ANSWER = ",".join(
    (
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
        f"set_field:{ROUTER_MAC}->eth_src",
        "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]",
        "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[]",
        "set_field:136->icmpv6_type",
        "set_field:0->icmpv6_code",
        "set_field:2->nd_options_type",
        "set_field:0xE0000000->nd_reserved",
        f"resubmit(,{ANSWER})",
    )
)
"""A solicited neighbour advertisement: RFC 4861 section 4.4; flags router, solicited, override.

The link-layer address is set in `answer`: OpenFlow lets only a flow that matches an
advertisement touch that field."""


def _local(flows: Pipeline, local: LocalSide, *, routed: bool) -> None:
    gateway = local.gateway_port
    mac = f"set_field:{local.gateway_mac}->eth_dst,"
    if local.on_switch:
        for pod in local.pods:
            if pod.ofport is None:
                continue
            for address in pod.addresses:
                to_pod = f"set_field:{pod.mac}->eth_dst,output:{pod.ofport}"
                flows.add(LOCAL, 100, dst(address), to_pod)
                flows.add(LOCAL, 110, asked(address), f"output:{pod.ofport}")
            match = f"icmp6,icmp_type=136,dl_dst={pod.mac}"
            flows.add(LOCAL, 110, match, f"output:{pod.ofport}")
        for address in local.gateways:
            flows.add(LOCAL, 100, dst(address), f"{mac}output:{gateway}")
            flows.add(LOCAL, 110, asked(address), f"output:{gateway}")
        flows.add(LOCAL, 110, f"icmp6,icmp_type=136,dl_dst={local.gateway_mac}", "output:LOCAL")
    for subnet in local.subnets:
        to_host = "" if local.on_switch else f"{mac if routed else ''}output:{gateway}"
        flows.add(LOCAL, 90, dst(subnet), to_host)
        if not routed:  # a host whose mesh was routed a moment ago still knows the router's MAC
            match = f"{dst(subnet)},dl_dst={ROUTER_MAC}"
            flows.add(LOCAL, 95, match, "" if local.on_switch else f"{mac}output:{gateway}")
        flows.add(LOCAL, 90, asked(subnet), "" if local.on_switch else f"output:{gateway}")
    ours = [gateway, *(p.ofport for p in local.pods if p.ofport is not None)]
    for port in ours:
        flows.add(LOCAL, 30, f"in_port={port}", f"goto_table:{REMOTE}")
    if not routed:
        flows.add(LOCAL, 20, MULTICAST, f"output:{gateway}")
        flows.add(LOCAL, 20, "icmp6,icmp_type=136", f"output:{gateway}")
    flows.add(LOCAL, 0, "", "")


def _remote_to(flows: Pipeline, peer: Peer, ofport: int, local: LocalSide, *, routed: bool) -> None:
    if not routed:
        for subnet in peer.subnets:
            flows.add(REMOTE, 100, dst(subnet), f"output:{ofport}")
            flows.add(REMOTE, 110, asked(subnet), f"output:{ofport}")
        return
    actions = f"dec_ttl,set_field:{local.gateway_mac}->eth_src,set_field:{ROUTER_MAC}->eth_dst,"
    if peer.chosen_by_flow:
        name = "tun_ipv6_dst" if ":" in peer.remote else "tun_dst"
        actions += f"set_field:{peer.tunnel.key}->tun_id,set_field:{peer.remote}->{name},"
    for subnet in peer.subnets:
        flows.add(REMOTE, 100, dst(subnet), f"{actions}output:{ofport}")


def _remote_routed(flows: Pipeline, local: LocalSide) -> None:
    if local.on_switch:  # services, other networks: the host routes
        flows.add(REMOTE, 50, f"dl_dst={local.gateway_mac}", f"output:{local.gateway_port}")
    flows.add(REMOTE, 20, MULTICAST, "")
    for match in ("ip", "ipv6"):
        flows.add(REMOTE, 1, match, dropped("no_peer"))
    flows.add(REMOTE, 0, "", "")


def _remote_switched(
    flows: Pipeline, local: LocalSide, peers: Iterable[Peer], ofports: Mapping[str, int]
) -> None:
    if local.on_switch:  # a pod's packets go by its gateway: the host resolves remote pods
        flows.add(REMOTE, 200, f"dl_dst={local.gateway_mac}", f"output:{local.gateway_port}")
    ordered = sorted({ofports[peer.port] for peer in peers})
    chunks = [ordered[i : i + FLOOD_CHUNK] for i in range(0, len(ordered), FLOOD_CHUNK)]
    everywhere = ",".join(f"resubmit(,{FLOOD + n})" for n in range(len(chunks)))
    # an advertisement that answers a link-local question: its asker may be on any host
    flows.add(REMOTE, 105, "icmp6,icmp_type=136,ipv6_dst=fe80::/10", everywhere)
    flows.add(REMOTE, 25, "arp", "")
    flows.add(REMOTE, 20, MULTICAST, everywhere)
    for number, chunk in enumerate(chunks):
        flows.add(FLOOD + number, 1, "", ",".join(f"output:{port}" for port in chunk))
    for match in ("ip", "ipv6"):
        flows.add(REMOTE, 1, match, dropped("no_peer"))
    flows.add(REMOTE, 0, "", "")
