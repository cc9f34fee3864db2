# SPDX-License-Identifier: Apache-2.0
"""The ovs backend's options in the cluster config, checked.

    {"Type":"ovs","Tunnel":"vxlan","Mesh":"flow"}

    Tunnel     gre, vxlan, geneve         vxlan   what carries frames between hosts
    Mesh       static, flow, combined     flow    see ovs_mesh.topology
    Key        1 to 2^24-1 (GRE: 2^32-1)  1       GRE key, VXLAN or Geneve VNI
    Port       UDP port                   0       0: the IANA port (VXLAN 4789, Geneve 6081)
    Datapath   auto, system, netdev       auto    the kernel's where it has one, else userspace
    PodAttach  kbr0, obr0                 kbr0    pods on the Linux bridge, or straight on OVS
    MTU        bytes                      0       the underlay's; 0 takes the device's
    Peers      list of rules              []      combined only: pairs with a tunnel of their own
    SpanningTree  none, stp, rstp         none    static only: see ovs_mesh.tables.local

A rule is `{"CIDR":"192.168.64.0/24","Tunnel":"gre","Key":7,"Port":0}`. It applies to two hosts
when *both* have their PublicIP in CIDR, so that both choose the same tunnel; of several rules
the first that applies is used. "GRE inside the LAN, VXLAN over the internet" takes one rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from base.fields import Fields
from hostnet.underlay import Underlay
from ipam.network import ConfigError, NetworkConfig

NAME = "ovs"
TUNNELS = ("gre", "vxlan", "geneve")
MESHES = ("static", "flow", "combined")
DATAPATHS = ("auto", "system", "netdev")
ATTACHMENTS = ("kbr0", "obr0")
SPANNING_TREES = ("none", "stp", "rstp")
RULE_KEYS = ("CIDR", "Tunnel", "Key", "Port")
"""Of an object in Peers."""
IANA_PORT = {"gre": 0, "vxlan": 4789, "geneve": 6081}
MAX_KEY = {"gre": 2**32 - 1, "vxlan": 2**24 - 1, "geneve": 2**24 - 1}
OVERHEAD = {
    "gre": 14 + 4 + 4 + 20,  # bytes: inner Ethernet, GRE, its key (RFC 2890), outer IPv4
    "vxlan": 14 + 8 + 8 + 20,  # inner Ethernet, VXLAN, UDP, outer IPv4 (RFC 7348)
    "geneve": 14 + 8 + 8 + 20,  # the same without options (RFC 8926)
}
IPV6_MORE = 20  # bytes by which the outer IPv6 header is longer
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class OvsTunnel(NamedTuple):
    """How frames travel between two hosts."""

    kind: str
    key: int
    port: int
    """UDP destination port; 0 for GRE."""


DEFAULT_TUNNEL = OvsTunnel("vxlan", 1, IANA_PORT["vxlan"])


@dataclass(frozen=True, slots=True)
class Rule:
    """Hosts that use a tunnel of their own among themselves."""

    cidr: IPNetwork
    tunnel: OvsTunnel


@dataclass(frozen=True, slots=True)
class OvsConfig:
    """The Backend object of the cluster config."""

    tunnel: OvsTunnel = DEFAULT_TUNNEL
    mesh: str = "flow"
    datapath: str = "auto"
    attach: str = "kbr0"
    underlay_mtu: int = 0
    """Bytes; 0 takes the underlay device's."""
    rules: tuple[Rule, ...] = field(default=())
    spanning_tree: str = "none"
    network: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False

    @classmethod
    def of(cls, config: NetworkConfig) -> OvsConfig:
        """Read the options. Raises ConfigError."""
        options = config.options
        mesh = options.choice("Mesh", MESHES, "flow")
        tunnel = _tunnel(options, DEFAULT_TUNNEL)
        rules = options.objects("Peers", '{"CIDR":"10.0.0.0/8"}')
        if rules and mesh != "combined":
            raise ConfigError(f'{options.where}Peers needs "Mesh":"combined"; the mesh is {mesh}')
        tree = options.choice("SpanningTree", SPANNING_TREES, "none")
        if tree != "none" and mesh != "static":
            raise ConfigError(
                f'{options.where}SpanningTree needs "Mesh":"static"; the mesh is {mesh}'
            )
        return cls(
            tunnel=tunnel,
            mesh=mesh,
            datapath=options.choice("Datapath", DATAPATHS, "auto"),
            attach=options.choice("PodAttach", ATTACHMENTS, "kbr0"),
            underlay_mtu=options.number("MTU", 0, minimum=0, maximum=65535),
            rules=tuple(Rule(_cidr(rule), _tunnel(rule, tunnel)) for rule in rules),
            spanning_tree=tree,
            network=config.network,
            ipv6_network=config.ipv6_network,
            enable_ipv4=config.enable_ipv4,
            enable_ipv6=config.enable_ipv6,
        )

    @property
    def tunnels(self) -> list[OvsTunnel]:
        """All tunnels that may be in use, each once, the default first."""
        return list(dict.fromkeys([self.tunnel, *(rule.tunnel for rule in self.rules)]))

    def tunnel_between(self, ours: IPAddress, theirs: IPAddress) -> OvsTunnel | None:
        """The tunnel of the first rule that applies to two hosts, None when none does."""
        for rule in self.rules:
            if ours in rule.cidr and theirs in rule.cidr:
                return rule.tunnel
        return None

    def mtu(self, underlay: Underlay) -> int:
        """The MTU of pods, in bytes: the underlay's less the largest header that may be in use."""
        overhead = max(OVERHEAD[tunnel.kind] for tunnel in self.tunnels)
        if underlay.public_ip is None:
            overhead += IPV6_MORE
        return (self.underlay_mtu or underlay.mtu) - overhead


def _tunnel(options: Fields, default: OvsTunnel) -> OvsTunnel:
    """The keys Tunnel, Key and Port. Kind and key default to another tunnel's, the port to IANA's.

    Raises ConfigError.
    """
    kind = options.choice("Tunnel", TUNNELS, default.kind)
    key = options.number("Key", default.key, minimum=1, maximum=MAX_KEY[kind])
    port = options.number("Port", 0, minimum=0, maximum=65535)
    if kind == "gre" and port:
        raise ConfigError(f"{options.where}Port is {port}, but GRE has no ports: omit it")
    return OvsTunnel(kind, key, port or IANA_PORT[kind])


def _cidr(rule: Fields) -> IPNetwork:
    text = rule.text("CIDR")
    if text is None:
        raise ConfigError(f"{rule.where.removesuffix('.')} has no CIDR")
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"{rule.where}CIDR: {error}") from None
