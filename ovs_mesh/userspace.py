# SPDX-License-Identifier: Apache-2.0
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
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostnet.gateway_bridge import ensure_addresses, remove_other_addresses, set_up
from hostnet.kernel import Kernel
from hostnet.kinds.actual_link import IFF_PROMISC, ActualLink
from hostnet.kinds.nft_table import NftTable
from hostnet.netlink.socket import NetlinkSocket
from hostnet.nft import tables as nftables
from hostnet.nft.messages import FAMILIES
from hostnet.underlay import Underlay
from ovs_mesh.clients.appctl import appctl
from ovs_mesh.config import OvsTunnel
from ovs_mesh.devices import UNDERLAY_BRIDGE, UNDERLAY_BRIDGE_VETH, UNDERLAY_VETH
from ovs_mesh.pipeline import COOKIE

TABLE = ("netdev", "flatmesh_ovs")
MAIN_TABLE = 254
USER_ROUTE = re.compile(r"^User: (\S+) dev (\S+)(?: GW (\S+))?(?: SRC (\S+))?", re.MULTILINE)
SOURCE_TIMEOUT = 2.0  # seconds for ovs-vswitchd to notice that an address came or went
SOURCE_INTERVAL = 0.05  # seconds between two tries meanwhile


@dataclass(frozen=True, slots=True, order=True)
class TunnelRoute:
    """A route for tunnel packets: `ovs-appctl ovs/route/add DESTINATION obr0-phy [VIA]`."""

    destination: str
    via: str = ""


def concerns_redirect(kind: int, family: int, table: str) -> bool:
    """Whether the table below may have changed. Fits `hostnet.nft.watch.Concerns`."""
    del kind
    return (family, table) == (FAMILIES[TABLE[0]], TABLE[1])


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


def not_opened(ports: Collection[str], links: Iterable[ActualLink]) -> set[str]:
    """Which devices the switch does not read, although they are its ports.

    It makes each device promiscuous as it opens it; one that was made anew since is not.
    """
    return {one.name for one in links if one.name in ports and not one.flags & IFF_PROMISC}


def read_routes(shown: str, sources: Collection[str]) -> tuple[set[TunnelRoute], set[TunnelRoute]]:
    """What `ovs-appctl ovs/route/show` tells of our routes: the right ones, the wrong ones.

    A route keeps the source address that it had when it was added; one that this host no longer
    has makes peers take its packets for forged.
    """
    right: set[TunnelRoute] = set()
    wrong: set[TunnelRoute] = set()
    for where, link, via, source in USER_ROUTE.findall(shown):
        if link == UNDERLAY_BRIDGE:
            (right if source in sources else wrong).add(TunnelRoute(where, via))
    return right, wrong


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
                lines += ensure_addresses(sock, link, addresses, prefix_route=False)
                lines += remove_other_addresses(sock, link, addresses)
        sources = {str(address.ip) for address in underlay.addresses}
        lines += self._routes(tunnel_routes(underlay, kernel), sources)
        return lines + self._redirect(redirect(underlay, tunnels, switched))

    def _routes(self, wanted: set[TunnelRoute], sources: Collection[str]) -> list[str]:
        deadline = time.monotonic() + SOURCE_TIMEOUT
        lines: list[str] = []
        while True:
            right, wrong = read_routes(appctl(self.rundir, "ovs/route/show"), sources)
            if right == wanted and not wrong:
                return lines
            if time.monotonic() > deadline:
                raise OSError(
                    f"ovs-vswitchd has not noticed yet that {UNDERLAY_BRIDGE} has other addresses"
                )
            if lines:
                time.sleep(SOURCE_INTERVAL)
            lines += self._change_routes(right, wrong, wanted)

    def _change_routes(
        self, right: set[TunnelRoute], wrong: set[TunnelRoute], wanted: set[TunnelRoute]
    ) -> list[str]:
        lines = []
        for route in sorted(wrong | (right - wanted)):
            appctl(self.rundir, "ovs/route/del", route.destination)
            lines.append(f"ovs-appctl ovs/route/del {route.destination}")
        for route in sorted(wanted - right, key=lambda r: (bool(r.via), r.destination)):
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
