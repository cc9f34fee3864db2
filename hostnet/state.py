"""What a host's network stack holds, as values.

Theory of operation
-------------------
Everything flatmesh wants from a kernel, and everything it finds there, is said in these
types. A value's `key` says *which* object it is; equality says whether the object is
*right*. `hostnet.plan.diff` compares two `HostState`s by exactly that and nothing else.

All addresses are canonical text: `inet_ntop` form, networks as `address/prefixlen` with
the host bits zero, MACs as lower-case colon hex. Text is what operators read in plans and
what golden tests compare; packing happens only where a netlink message is written.

The bulk kinds are NamedTuples because a host in a large cluster holds three of them per
peer: 15,000 at 5,000 hosts, built and compared in every reconcile.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import NamedTuple

MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h


class Route(NamedTuple):
    """One unicast route. `ip route replace DESTINATION via VIA dev LINK ...`."""

    destination: str
    link: str
    via: str | None = None
    onlink: bool = False
    source: str | None = None
    metric: int = 0
    """0 means the kernel's default: none for IPv4, 1024 for IPv6."""
    table: int = MAIN_TABLE
    mtu: int = 0
    """Bytes; 0 leaves it to the device."""
    advmss: int = 0
    scope: int = 0
    """0 universe, 253 link (RT_SCOPE_*)."""

    @property
    def key(self) -> tuple[str, int, int]:
        """The kernel holds one route per destination, metric and table."""
        return (self.destination, self.metric, self.table)


class Nexthop(NamedTuple):
    """A nexthop object that routes refer to. `ip nexthop add id ID via VIA dev LINK`.

    Nobody desires one: `hostnet.plan` makes one per gateway where the kernel has them.
    """

    id: int
    link: str
    via: str
    onlink: bool = False

    @property
    def key(self) -> int:
        """The id, unique in a namespace."""
        return self.id


class Neighbour(NamedTuple):
    """A permanent neighbour entry. `ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent`."""

    link: str
    address: str
    mac: str

    @property
    def key(self) -> tuple[str, str]:
        """One entry per device and address."""
        return (self.link, self.address)


class FdbEntry(NamedTuple):
    """A permanent forwarding entry. `bridge fdb replace MAC dev LINK dst REMOTE self permanent`."""

    link: str
    mac: str
    remote: str
    """Underlay address of the VTEP."""

    @property
    def key(self) -> tuple[str, str]:
        """One destination per device and MAC: we never flood to several."""
        return (self.link, self.mac)


class Address(NamedTuple):
    """An address on a device, its prefix length included. `ip addr add ADDRESS dev LINK`."""

    link: str
    address: str
    """`10.5.76.1/24`: host bits kept."""

    @property
    def key(self) -> tuple[str, str]:
        """The kernel holds an address with its prefix length once per device."""
        return (self.link, self.address)


class Sysctl(NamedTuple):
    """A sysctl in this network namespace, by its path below /proc/sys."""

    path: str
    """`net/ipv4/ip_forward`."""
    value: str

    @property
    def key(self) -> str:
        """The path."""
        return self.path


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The attributes of a VXLAN device. Any change needs the device made anew."""

    vni: int
    port: int
    """UDP destination port on the underlay."""
    local: str
    """Underlay source address; its family is the underlay's family."""
    underlay_link: str | None = None
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Bridge:
    """The attributes of a Linux bridge that we set."""

    vlan_filtering: bool = False


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair whose two ends are both in this namespace."""

    peer: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. None means: as it is found (nothing to put right)."""

    name: str
    kind: str = ""
    """IFLA_INFO_KIND: `vxlan`, `bridge`, `veth`, `dummy`, ...; empty for hardware."""
    mtu: int | None = None
    mac: str | None = None
    up: bool = True
    master: str | None = None
    addrgenmode: str | None = None
    """`none` keeps the kernel from giving a VTEP a link-local IPv6 address."""
    details: Vxlan | Bridge | Veth | None = None
    alias: str | None = None
    """The ownership mark (`hostnet.ownership`); None in a desired link: the usual one."""

    @property
    def key(self) -> str:
        """The name, unique in a namespace."""
        return self.name


@dataclass(frozen=True, slots=True)
class NftTable:
    """One nftables table that is wholly ours, replaced in one transaction.

    `body` is what stands between the braces of `table FAMILY NAME { ... }` in nft(8) syntax.
    """

    family: str
    name: str
    body: str

    @property
    def key(self) -> tuple[str, str]:
        """Family and name."""
        return (self.family, self.name)


@dataclass(frozen=True, slots=True)
class HostState:
    """A set of network objects: what is wanted, or what is there."""

    links: frozenset[Link] = field(default_factory=frozenset)
    addresses: frozenset[Address] = field(default_factory=frozenset)
    routes: frozenset[Route] = field(default_factory=frozenset)
    neighbours: frozenset[Neighbour] = field(default_factory=frozenset)
    fdb: frozenset[FdbEntry] = field(default_factory=frozenset)
    sysctls: frozenset[Sysctl] = field(default_factory=frozenset)
    tables: frozenset[NftTable] = field(default_factory=frozenset)
    unmarked: frozenset[Route] = field(default_factory=frozenset)
    """Found ones only: what lacks our mark but goes through an overlay device of ours."""

    def __or__(self, other: HostState) -> HostState:
        """Both states together."""
        return merge((self, other))


def merge(states: tuple[HostState, ...] | list[HostState]) -> HostState:
    """The union of many states, in time linear in their size."""
    return HostState(
        **{
            f.name: frozenset().union(*(getattr(s, f.name) for s in states))
            for f in fields(HostState)
        }
    )
