# SPDX-License-Identifier: Apache-2.0
"""What pods and strangers on the underlay can't send to this host, or through it, as nft rules.

Closed to pods (`closed`): the tunnel ports, etcd's, the daemon's metrics and the scheduler's, at
the addresses of all hosts and of etcd. A pod's packets are judged where they enter the host that it
runs on: in the forward hook, before they get the host's address by masquerading, and in the input
hook, where they are for the host itself. A pod's own services on the same ports stay open, as their
addresses are in the cluster's network. A TCP packet with ACK passes: it belongs to a connection
that a host has opened, from a port that happens to be closed; conntrack isn't asked, as it is off
where nothing is masqueraded.

Checked on arrival (`backend.arrivals`):

    to a tunnel port    in the input hook, where IPv4 fragments are whole. A fragment of IPv6 that
                        has no UDP header can't be compared with a port: the kernel drops the
                        first one of such a datagram (RFC 8200, 4.5), and one whose inner header
                        is cut off matches no rule but the dropping one.
    without a tunnel    in the forward and input hooks: from the underlay device with a source in
                        the cluster's network, only where the backend has peers send so. Asking
                        the routes (`fib saddr . iif oif`) was tried instead: it takes addresses
                        that nobody has leased, by the default route.

The order of the rules is for small packets: what peers send passes after the fewest comparisons.
A prerouting hook for what comes without a tunnel was tried: every packet takes it, those of the
tunnel twice, which cost a tenth of the small packets.

Each reason has a counter of its own, which `hostnet.nft.counters` reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from backend.arrivals import Arrivals, Check, TunnelPort
from flannel.members import HOST_LENGTH, IPAddress, IPNetwork, address_set, plain_set, vxlan_set
from hostnet.nft.sets import NftSet

SCHEDULER_PORT = 2377  # TCP
GATEWAY = "kbr0"
"""The bridge that pods are attached to unless they ask for another one."""
_PODS = f'{{ "{GATEWAY}", "obr0" }}'
"""Devices by which pods reach their host, whatever source they write."""
ANY = {4: "0.0.0.0", 6: "::"}
ETHERTYPE = {4: "0x0800", 6: "0x86dd"}
REASONS = {
    "pod_to_tunnel": "a pod sent to a tunnel port of a host",
    "pod_to_etcd": "a pod opened a connection to etcd",
    "pod_to_metrics": "a pod opened a connection to a daemon's metrics",
    "pod_to_scheduler": "a pod opened a connection to the scheduler",
    "pod_to_hidden_port": "a pod sent a host an IPv6 fragment without the header that has the port",
    "not_tunnel_end": "a VXLAN packet to an address of this host that peers don't send to",
    "not_a_member": "a tunnel packet from an address that no lease has",
    "wrong_inner_source": "a tunnel packet whose inner source is not in its sender's lease",
    "not_ip": "a tunnel packet that holds something else than IP",
    "plain_pod_source": "a packet on the underlay, outside of tunnels, with a pod's source",
}
"""The counters' names, and what was dropped."""


@dataclass(frozen=True, slots=True)
class ClosedPorts:
    """The ports that are closed to pods, by reason; empty where OpenToPods has opened them."""

    tunnels: tuple[int, ...] = ()
    """UDP."""
    gre: bool = False
    etcd: tuple[int, ...] = ()
    metrics: tuple[int, ...] = ()
    scheduler: tuple[int, ...] = (SCHEDULER_PORT,)

    @classmethod
    def of(
        cls,
        arrivals: Arrivals,
        etcd: Iterable[int],
        metrics: int,
        open_to_pods: Collection[str],
    ) -> ClosedPorts:
        """All ports but the opened ones; `metrics` 0 is off."""

        def closed(name: str, protocol: str, ports: Iterable[int]) -> tuple[int, ...]:
            if name in open_to_pods:
                return ()
            return tuple(sorted({p for p in ports if p and f"{protocol}/{p}" not in open_to_pods}))

        return cls(
            closed("tunnels", "udp", (p.port for p in arrivals.ports if p.protocol == "udp")),
            "tunnels" not in open_to_pods and any(p.protocol == "gre" for p in arrivals.ports),
            closed("etcd", "tcp", etcd),
            closed("metrics", "tcp", (metrics,)),
            closed("scheduler", "tcp", (SCHEDULER_PORT,)),
        )

    def rules(self) -> list[str]:
        """The rules for packets from pods to hosts."""
        rules = []
        if self.tunnels:
            rules.append(f"udp dport {_listed(self.tunnels)} {_drop('pod_to_tunnel')}")
        if self.gre:
            rules.append(f"meta l4proto gre {_drop('pod_to_tunnel')}")
        rules.append("tcp flags & ack == ack return")
        for name in ("etcd", "metrics", "scheduler"):
            ports = getattr(self, name)
            if ports:
                rules.append(f"tcp dport {_listed(ports)} {_drop(f'pod_to_{name}')}")
        # 255 is reserved: the first rule takes all packets whose protocol can be told
        rules.append("meta l4proto != 255 return")
        rules.append(f"exthdr frag exists {_drop('pod_to_hidden_port')}")
        return rules


@dataclass(frozen=True, slots=True)
class HostFilter:
    """The filter of one host, for the cluster's networks that it takes part in."""

    networks: Sequence[IPNetwork]
    underlay_link: str
    arrivals: Arrivals
    closed: ClosedPorts
    lengths: Sequence[tuple[int, int]]
    """(family, prefix length) of the leases' subnets."""
    tunnel_ends: Sequence[IPAddress]
    """This host's addresses that peers send VXLAN to, one of a family at most."""

    def sets(self) -> frozenset[NftSet]:
        """The sets that the rules name."""
        found = {address_set(name, f) for name in ("protected", "hosts") for f in (4, 6)}
        if any(port.check is not Check.NONE for port in self.arrivals.ports):
            found |= {address_set("members", family) for family in (4, 6)}
        if any(port.check is Check.VXLAN for port in self.arrivals.ports):
            found |= {vxlan_set(family, length) for family, length in self.lengths}
            found |= {vxlan_set(family, length) for family, length in HOST_LENGTH.items()}
        if self.arrivals.plain:
            found |= {plain_set(family, length) for family, length in self.lengths}
        return frozenset(found)

    def counters(self) -> str:
        """Declarations of the counters."""
        return "".join(f"counter {name} {{\n}}\n" for name in REASONS)

    def forward(self) -> list[str]:
        """Rules of the forward hook, for each family in their order."""
        rules = [*self._between_pods(), *self._without_tunnel()]
        for network in self.networks:
            ip = _ip(network.version)
            rules += [
                f"{ip} daddr {network} accept",
                f"{ip} saddr {network} {ip} daddr @protected{network.version} jump closed",
                f"{ip} saddr {network} accept",
            ]
        rules += [
            f"iifname {_PODS} {_ip(family)} daddr @protected{family} jump closed"
            for family in (4, 6)
        ]
        return rules

    def input(self) -> list[str]:
        """Rules of the input hook."""
        checked = [port.port for port in self.arrivals.ports if port.check is not Check.NONE]
        to_tunnels = [f"udp dport {port} jump tunnel_{port}" for port in checked]
        rules = [f'iifname "{self.underlay_link}" {rule}' for rule in to_tunnels]
        rules += [*self._without_tunnel(), 'iifname "lo" accept', f"iifname {_PODS} jump closed"]
        for network in self.networks:
            ip = _ip(network.version)
            rules.append(f"{ip} saddr {network} {ip} saddr != @hosts{network.version} jump closed")
        return rules + to_tunnels

    def _between_pods(self) -> list[str]:
        """Without tunnels: what pods send each other, in one rule each way.

        They allow nothing that the rules after them would not: the first one takes packets that did
        not come from the underlay, the others those with a source that a peer has leased.
        """
        if not self.arrivals.plain:
            return []
        rules = [
            f'iifname "{GATEWAY}" {_ip(n.version)} daddr {n} accept'
            for n in self.networks
            if self.underlay_link != GATEWAY
        ]
        for network in self.networks:
            rules += [
                f"{leased} {_ip(network.version)} daddr {network} accept"
                for leased in self._leased(network.version)
            ]
        return rules

    def _without_tunnel(self) -> list[str]:
        return [
            f'iifname "{self.underlay_link}" {_ip(n.version)} saddr {n} jump plain{n.version}'
            for n in self.networks
        ]

    def chains(self) -> dict[str, list[str]]:
        """The chains that the hooks' rules jump to, each before those that jump to it."""
        found = {"closed": self.closed.rules()}
        for port in self.arrivals.ports:
            if port.check is Check.VXLAN:
                found[f"tunnel_{port.port}"] = self._vxlan(port)
            elif port.check is Check.MEMBER:
                found[f"tunnel_{port.port}"] = [
                    "ip saddr @members4 accept",
                    "ip6 saddr @members6 accept",
                    _drop("not_a_member"),
                ]
        for network in self.networks:
            found[f"plain{network.version}"] = self._plain(network.version)
        return found

    def _vxlan(self, port: TunnelPort) -> list[str]:
        """Offsets in bits from the UDP header: 96 the VNI, 224 the inner EtherType."""
        own: dict[int, str] = {
            end.version: f"{_ip(end.version)} daddr {end} " for end in self.tunnel_ends
        }
        rules = []
        for family, length in [*self.lengths, *HOST_LENGTH.items()]:
            kind = f"{own.get(family, '')}@th,224,16 {ETHERTYPE[family]}"
            key = f"{_ip(family)} saddr . {_inner_source(family)}{_cut(family, length)}"
            rules.append(f"{kind} {key} @{vxlan_set(family, length).name} accept")
        rules.append(f"@th,96,24 != {port.vni:#x} accept")
        # pods elsewhere are kept from the published address only: this host has more
        rules += [
            f"{_ip(end.version)} daddr != {end} {_drop('not_tunnel_end')}"
            for end in self.tunnel_ends
        ]
        rules += [f"{_ip(f)} saddr != @members{f} {_drop('not_a_member')}" for f in (4, 6)]
        rules += [
            f"meta nfproto ipv{family} @th,224,16 != {kind} {_drop('not_ip')}"
            for family, kind in ETHERTYPE.items()
        ]
        return [*rules, _drop("wrong_inner_source")]

    def _plain(self, family: int) -> list[str]:
        leased = self._leased(family) if self.arrivals.plain else []
        return [*(f"{one} return" for one in leased), _drop("plain_pod_source")]

    def _leased(self, family: int) -> list[str]:
        """Matches of a source that a peer has leased, one for each length of subnets."""
        return [
            f"{_ip(family)} saddr & {ip_network(f'{ANY[family]}/{length}').netmask} "
            f"@{plain_set(family, length).name}"
            for one, length in self.lengths
            if one == family
        ]


def _inner_source(family: int) -> str:
    return "@th,336,32" if family == 4 else "@th,304,128"


def _cut(family: int, length: int) -> str:
    bits = HOST_LENGTH[family]
    mask = (1 << bits) - (1 << bits - length)
    return "" if length == bits else f" & {mask:#x}"


def _drop(reason: str) -> str:
    return f"counter name {reason} drop"


def _listed(values: Iterable[object]) -> str:
    return "{ " + ", ".join(map(str, values)) + " }"


def _ip(family: int) -> str:
    return "ip" if family == 4 else "ip6"
