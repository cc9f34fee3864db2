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

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, NamedTuple

from hostnet.underlay import Underlay
from ipam.network import ConfigError, NetworkConfig, option

NAME = "ovs"
TUNNELS = ("gre", "vxlan", "geneve")
MESHES = ("static", "flow", "combined")
DATAPATHS = ("auto", "system", "netdev")
ATTACHMENTS = ("kbr0", "obr0")
SPANNING_TREES = ("none", "stp", "rstp")
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
        mesh = _choice(config, "Mesh", MESHES, "flow")
        kind = _choice(config, "Tunnel", TUNNELS, "vxlan")
        tunnel = OvsTunnel(
            kind,
            option(config, "Key", 1, minimum=1, maximum=MAX_KEY[kind]),
            option(config, "Port", 0, minimum=0, maximum=65535),
        )
        rules: Any = next((v for k, v in config.backend.items() if k.lower() == "peers"), [])
        if not isinstance(rules, list):
            raise ConfigError('cluster config: Backend.Peers must be a list of {"CIDR":...} rules')
        if rules and mesh != "combined":
            raise ConfigError(
                f'cluster config: Backend.Peers needs "Mesh":"combined"; the mesh is {mesh}'
            )
        tree = _choice(config, "SpanningTree", SPANNING_TREES, "none")
        if tree != "none" and mesh != "static":
            raise ConfigError(
                f'cluster config: Backend.SpanningTree needs "Mesh":"static"; the mesh is {mesh}'
            )
        return cls(
            tunnel=_with_port(tunnel, "Backend.Port"),
            mesh=mesh,
            datapath=_choice(config, "Datapath", DATAPATHS, "auto"),
            attach=_choice(config, "PodAttach", ATTACHMENTS, "kbr0"),
            underlay_mtu=option(config, "MTU", 0, minimum=0, maximum=65535),
            rules=tuple(_rule(rule, number, tunnel) for number, rule in enumerate(rules, 1)),
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


def _choice(config: NetworkConfig, name: str, known: tuple[str, ...], default: str) -> str:
    return _known(option(config, name, default), f"Backend.{name}", known)


def _known(value: object, name: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value.lower() not in known:
        raise ConfigError(
            f"cluster config: {name} is {json.dumps(value)}; it must be one of {', '.join(known)}"
        )
    return value.lower()


def _with_port(tunnel: OvsTunnel, name: str) -> OvsTunnel:
    if tunnel.kind == "gre" and tunnel.port:
        raise ConfigError(f"cluster config: {name} is {tunnel.port}, but GRE has no ports: omit it")
    return tunnel._replace(port=tunnel.port or IANA_PORT[tunnel.kind])


def _rule(rule: object, number: int, default: OvsTunnel) -> Rule:
    name = f"Backend.Peers[{number}]"
    if not isinstance(rule, Mapping):
        raise ConfigError(f'cluster config: {name} must be an object like {{"CIDR":"10.0.0.0/8"}}')
    keys: dict[str, Any] = {str(key).lower(): value for key, value in rule.items()}
    try:
        cidr = ip_network(str(keys["cidr"]), strict=False)
    except KeyError:
        raise ConfigError(f"cluster config: {name} has no CIDR") from None
    except ValueError as error:
        raise ConfigError(f"cluster config: {name}.CIDR: {error}") from None
    kind = _known(keys.get("tunnel", default.kind), f"{name}.Tunnel", TUNNELS)
    key = _number(keys.get("key", default.key), f"{name}.Key", 1, MAX_KEY[kind])
    port = _number(keys.get("port", 0), f"{name}.Port", 0, 65535)
    return Rule(cidr, _with_port(OvsTunnel(kind, key, port), f"{name}.Port"))


def _number(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(
            f"cluster config: {name} is {json.dumps(value)}; it must be from {low} to {high}"
        )
    return value
