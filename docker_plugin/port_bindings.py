# SPDX-License-Identifier: Apache-2.0
"""What `docker run --publish` asks for, as dockerd tells drivers, and the rules that give it.

A published port is a port of this host, at all of its addresses or at one; a connection to it goes
to the container, which sees the caller's own address. Only callers with an address of this host's
lease appear as the host: the answer to a neighbour on the same bridge would not pass the host.

Pure; `docker_plugin.published_ports` puts the rules in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from docker_plugin.request import Call, DockerCallError

TABLE = "flatmesh_docker"
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
IPAddress = IPv4Address | IPv6Address
_IP = {4: "ip", 6: "ip6"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
_TRANSPORT = "{ tcp, udp, sctp }"


class PortBinding(NamedTuple):
    """One port of the host that leads to one of a container."""

    protocol: str
    """A value of `PROTOCOLS`."""
    host_ip: IPAddress | None
    """None: all addresses of the host."""
    host_port: int
    container: IPAddress
    container_port: int

    @property
    def text(self) -> str:
        """As `docker ps` shows it."""
        where = f"[{self.host_ip}]" if self.host_ip and self.host_ip.version == 6 else self.host_ip
        return f"{where or 'all addresses'}:{self.host_port}/{self.protocol}"

    def overlaps(self, other: PortBinding) -> bool:
        """Whether a connection could be meant for either."""
        return (
            (self.protocol, self.host_port) == (other.protocol, other.host_port)
            and self.container.version == other.container.version
            and (None in (self.host_ip, other.host_ip) or self.host_ip == other.host_ip)
        )

    def stored(self) -> list[Any]:
        """As a record has it."""
        host_ip = str(self.host_ip) if self.host_ip is not None else ""
        container = str(self.container)
        return [self.protocol, host_ip, self.host_port, container, self.container_port]


def from_stored(value: Any) -> PortBinding | None:
    """A binding of a record; None for what another version wrote."""
    try:
        protocol, host_ip, host_port, container, container_port = value
        address = ip_address(str(host_ip)) if host_ip else None
        found = PortBinding(
            str(protocol), address, int(host_port), ip_address(str(container)), int(container_port)
        )
    except (ValueError, TypeError):
        return None
    return found if found.protocol in PROTOCOLS.values() else None


def read_bindings(
    asked: Sequence[Call], addresses: Sequence[IPAddress], taken: Iterable[PortBinding]
) -> list[PortBinding]:
    """The bindings of one container with these addresses, one for each family that it has.

    `taken` are other containers'. Raises DockerCallError.
    """
    others = list(taken)
    found: list[PortBinding] = []
    for one in asked:
        found += _bindings(one, addresses, [*others, *found])
    return found


def _bindings(
    one: Call, addresses: Sequence[IPAddress], taken: Sequence[PortBinding]
) -> list[PortBinding]:
    """One entry of dockerd's list (libnetwork, types.PortBinding)."""
    fields = one.fields
    protocol = PROTOCOLS.get(fields.number("Proto", 0, minimum=0, maximum=255), "")
    port = fields.number("Port", 0, minimum=0, maximum=65535)
    first = fields.number("HostPort", 0, minimum=0, maximum=65535)
    last = max(first, fields.number("HostPortEnd", 0, minimum=0, maximum=65535))
    if not protocol or not port:
        raise DockerCallError("--publish: a port of a protocol other than tcp, udp and sctp")
    if not first:
        raise DockerCallError(
            f"--publish {port}/{protocol}: name the host's port, as --publish 8080:{port}: Docker "
            "can't be told which one a network driver has chosen"
        )
    host_ip = _host_ip(one)
    families = {4, 6} if host_ip is None or host_ip.is_unspecified else {host_ip.version}
    if host_ip is not None and host_ip.is_unspecified:
        families = {host_ip.version}
        host_ip = None
    chosen = [a for a in addresses if a.version in families]
    if not chosen:
        raise DockerCallError(
            f"--publish {host_ip}:{first}:{port}: the container has no address of that family"
        )
    clash: PortBinding | None = None
    for number in range(first, last + 1):
        wanted = [PortBinding(protocol, host_ip, number, a, port) for a in chosen]
        clash = next((t for w in wanted for t in taken if w.overlaps(t)), None)
        if clash is None:
            return wanted
    assert clash is not None  # noqa: S101 - the range has a port
    raise DockerCallError(
        f"--publish: port {clash.text} is already published for container {clash.container}: "
        "choose another, or stop that container"
    )


def _host_ip(one: Call) -> IPAddress | None:
    text = one.text("HostIP")
    if not text:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        raise DockerCallError(f"--publish: {text[:64]!r} is no address of this host") from None
    if found.is_loopback:
        raise DockerCallError(
            f"--publish {found}: what is sent to a loopback address never reaches a container of "
            "this network; publish on an address of the host, or use Docker's default bridge"
        )
    return found


def table_body(bindings: Iterable[PortBinding], own: Mapping[int, str]) -> str:
    """What stands in the table `inet flatmesh_docker`; `own` are this host's subnets by family."""
    rows: dict[str, list[str]] = {}
    for one in sorted(bindings, key=lambda b: (b.protocol, b.host_port, str(b.host_ip))):
        family = one.container.version
        where = f"{one.protocol} . {one.host_port}"
        if one.host_ip is not None:
            rows.setdefault(f"one{family}", []).append(
                f"{one.host_ip} . {where} : {one.container} . {one.container_port}"
            )
        else:
            rows.setdefault(f"all{family}", []).append(
                f"{where} : {one.container} . {one.container_port}"
            )
        rows.setdefault(f"containers{family}", []).append(
            f"{one.container} . {one.protocol} . {one.container_port}"
        )
    sets, published, sources = [], [], []
    for family in (4, 6):
        ip, address = _IP[family], _ADDRESS[family]
        for name, key in (
            (f"one{family}", f"{address} . inet_proto . inet_service"),
            (f"all{family}", "inet_proto . inet_service"),
        ):
            if name not in rows:
                continue
            elements = ", ".join(rows[name])
            sets.append(
                f"map {name} {{ type {key} : {address} . inet_service; "
                f"elements = {{ {elements} }} }}"
            )
            daddr = f"{ip} daddr . " if name.startswith("one") else ""
            published.append(
                f"meta nfproto ipv{family} dnat {ip} to {daddr}meta l4proto . th dport map @{name}"
            )
        if f"containers{family}" in rows and family in own:
            elements = ", ".join(dict.fromkeys(rows[f"containers{family}"]))
            sets.append(
                f"set containers{family} {{ type {address} . inet_proto . inet_service; "
                f"elements = {{ {elements} }} }}"
            )
            sources.append(
                f"{ip} saddr {own[family]} "
                f"{ip} daddr . meta l4proto . th dport @containers{family} masquerade"
            )
    transport = f"meta l4proto != {_TRANSPORT} return"
    local = "fib daddr type local jump published"
    chains = {
        "published": published,
        "prerouting": [
            "type nat hook prerouting priority dstnat; policy accept;",
            transport,
            local,
        ],
        "output": [
            "type nat hook output priority -100; policy accept;",
            transport,
            "ip daddr 127.0.0.0/8 return",
            "ip6 daddr ::1 return",
            local,
        ],
        "postrouting": [
            "type nat hook postrouting priority srcnat; policy accept;",
            "ct status & dnat == 0 return",
            *sources,
        ],
    }
    blocks = [f"chain {name} {{\n" + "\n".join(rules) + "\n}" for name, rules in chains.items()]
    return "\n".join([*sets, *blocks])
