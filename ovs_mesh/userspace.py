"""How the userspace datapath reaches the underlay.

With the userspace datapath Open vSwitch sends and receives tunnel packets itself, and only
through a bridge that has the underlay address. The usual way is to move the NIC and its address
into a bridge; then a host whose ovs-vswitchd dies is cut off. So NIC and address stay where they
are, and nftables leads tunnel packets through a veth pair to a bridge:

     underlay device  --- nftables, at ingress: tunnel packets to us ------>  phy-host
        eth0          <-- nftables, at ingress: all that comes out --------      | veth
                                                                              phy-ovs
        ARP and ND answers to both                                               | port of
                                                                              obr0-phy

`obr0-phy` has the NIC's MAC and a copy of its address (without a connected route): Open vSwitch
takes tunnel packets for them. It gets routes for tunnels by ovs-appctl, and resolves neighbours
itself. With the kernel datapath there is nothing of all this.

Sources: Open vSwitch, Documentation/howto/userspace-tunneling; nft(8), "fwd" and "dup".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostnet.gateway_bridge import ensure_addresses, set_up
from hostnet.kernel import Kernel
from hostnet.kinds.nft_table import NftTable
from hostnet.netlink.socket import NetlinkSocket
from hostnet.nft import tables as nftables
from hostnet.underlay import Underlay
from ovs_mesh.clients.appctl import appctl
from ovs_mesh.config import OvsTunnel
from ovs_mesh.devices import UNDERLAY_BRIDGE, UNDERLAY_BRIDGE_VETH, UNDERLAY_VETH
from ovs_mesh.pipeline import COOKIE

TABLE = ("netdev", "flatmesh_ovs")
MAIN_TABLE = 254
USER_ROUTE = re.compile(r"^User: (\S+) dev (\S+)(?: GW (\S+))?", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class TunnelRoute:
    """A route for tunnel packets: `ovs-appctl ovs/route/add DESTINATION obr0-phy [VIA]`."""

    destination: str
    via: str = ""


def redirect(
    underlay: Underlay, tunnels: Iterable[OvsTunnel], switched: Iterable[str] = ()
) -> NftTable:
    """The table that leads tunnel packets from the underlay device to the switch, and back.

    `switched` are devices that the switch reads. It gets a copy of each packet before nftables
    does (packet(7)); the kernel's own copy is dropped, or packets would be delivered twice, and
    the kernel would answer ARP.
    """
    rules = [f'arp operation reply dup to "{UNDERLAY_VETH}"']
    rules += [f'icmpv6 type nd-neighbor-advert dup to "{UNDERLAY_VETH}"']
    ports = sorted({tunnel.port for tunnel in tunnels if tunnel.port})
    gre = any(not tunnel.port for tunnel in tunnels)
    for address in sorted({str(interface.ip) for interface in underlay.addresses}):
        family = "ip6" if ":" in address else "ip"
        ours = f"{family} daddr {address}"
        if ports:
            listed = ", ".join(map(str, ports))
            rules.append(f'{ours} udp dport {{ {listed} }} fwd to "{UNDERLAY_VETH}"')
        if gre:
            rules.append(f'{ours} meta l4proto gre fwd to "{UNDERLAY_VETH}"')
    into = "; ".join(rules)
    hook = "type filter hook ingress device"
    devices = ", ".join(f'"{name}"' for name in sorted(switched))
    theirs = f"type filter hook ingress devices = {{ {devices} }} priority 0; policy drop;"
    return NftTable(
        *TABLE,
        (f"chain switched {{ {theirs} }}\n" if devices else "")
        + f'chain in {{ {hook} "{underlay.link}" priority 0; policy accept; {into}; }}\n'
        f'chain out {{ {hook} "{UNDERLAY_VETH}" priority 0; policy accept; '
        f'fwd to "{underlay.link}"; }}',
    )


def underlay_bridge_flows(ofport: int) -> list[str]:
    """The flows of obr0-phy: from the switch to the veth pair, and back."""
    start = f"cookie={COOKIE:#x},table=0,priority=100"
    return [
        f"{start},in_port=LOCAL actions=output:{ofport}",
        f"{start},in_port={ofport} actions=LOCAL",
    ]


def tunnel_routes(underlay: Underlay, kernel: Kernel) -> set[TunnelRoute]:
    """The kernel's routes through the underlay device, which the switch needs as well."""
    routes = {TunnelRoute(str(address.network)) for address in underlay.addresses}
    for family in {2 if address.version == 4 else 10 for address in underlay.addresses}:
        for route in kernel.routes(family):
            usable = route.link == underlay.link and route.table == MAIN_TABLE
            if usable and route.via:
                routes.add(TunnelRoute(route.destination, route.via))
    return routes


def _routes_there(rundir: Path) -> set[TunnelRoute]:
    found = USER_ROUTE.findall(appctl(rundir, "ovs/route/show"))
    return {TunnelRoute(where, via) for where, link, via in found if link == UNDERLAY_BRIDGE}


@dataclass(slots=True)
class UserspaceUnderlay:
    """The connection between the underlay device and the userspace switch."""

    rundir: Path
    _loaded: tuple[NftTable, str | None] | None = field(default=None)
    """The table that was loaded, and how nft listed it then."""

    def reconcile(
        self,
        underlay: Underlay,
        tunnels: Sequence[OvsTunnel],
        switched: Sequence[str],
        kernel: Kernel,
    ) -> list[str]:
        """Bring devices up, set routes and nftables; returns the changes.

        Raises AppctlError, NetlinkError, OSError.
        """
        lines: list[str] = []
        with NetlinkSocket() as sock:
            set_up(sock, UNDERLAY_VETH)
            set_up(sock, UNDERLAY_BRIDGE_VETH)
            link = set_up(sock, UNDERLAY_BRIDGE, underlay.mtu)
            if link is not None:
                addresses = [str(address) for address in underlay.addresses]
                ensure_addresses(sock, link, addresses, prefix_route=False)
        lines += self._routes(tunnel_routes(underlay, kernel))
        return lines + self._redirect(redirect(underlay, tunnels, switched))

    def _routes(self, wanted: set[TunnelRoute]) -> list[str]:
        there = _routes_there(self.rundir)
        lines = []
        for route in sorted(there - wanted):
            appctl(self.rundir, "ovs/route/del", route.destination)
            lines.append(f"ovs-appctl ovs/route/del {route.destination}")
        for route in sorted(wanted - there, key=lambda r: (bool(r.via), r.destination)):
            words = [route.destination, UNDERLAY_BRIDGE, *([route.via] if route.via else [])]
            appctl(self.rundir, "ovs/route/add", *words)
            lines.append(f"ovs-appctl ovs/route/add {' '.join(words)}")
        return lines

    def _redirect(self, wanted: NftTable) -> list[str]:
        try:
            if self._loaded is not None:
                text, listing = self._loaded
                if text == wanted and listing and nftables.list_table(*TABLE) == listing:
                    return []
            nftables.replace_table(wanted.family, wanted.name, wanted.body)
            self._loaded = (wanted, nftables.list_table(*TABLE))
        except nftables.NftError as error:
            raise OSError(
                f"{error}; the userspace datapath of Open vSwitch needs nftables' fwd and dup "
                "(kernel CONFIG_NFT_FWD_NETDEV, CONFIG_NFT_DUP_NETDEV)"
            ) from None
        return [f"nft replace table {' '.join(TABLE)}"]

    def remove(self) -> None:
        """Delete the nftables table; the caller deletes devices and bridges. Raises OSError."""
        self._loaded = None
        try:
            nftables.delete_table(*TABLE)
        except nftables.NftMissingError:
            return
        except nftables.NftError as error:
            raise OSError(str(error)) from None
