# SPDX-License-Identifier: Apache-2.0
"""The mesh's members from the leases, and where the ingress tunnel goes. Pure.

It rides on the underlay; where the backend encrypts, inside the overlay, between the hosts' own
addresses there: then nothing leaves in clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.inputs import HostInputs, ReconcileInputs
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.kinds.rule import Rule
from hostnet.netlink.address_messages import Address
from hostnet.ownership import MESH_DEVICE
from hostnet.state import HostState
from hostnet.sysctl import Sysctl
from ipam.lease import Lease
from services.mesh.member import MARK_MASK, MARK_TAG, Member
from services.mesh.rules import PORT, VNI

OVERHEAD = {4: 50, 6: 70}
"""Bytes of the ingress tunnel: outer Ethernet, IP, UDP, VXLAN."""
TABLE = 8473
PRIORITY = 8473
ADDRESS = "169.254.78.1/32"
"""Without an address on the device, IPv4 checks sources strictly where the host is told to."""
GATEWAYS = {4: "169.254.78.2", 6: "fe80::a5b:1"}
"""Nobody's: the egress hook writes the hardware address of the host that a reply goes to."""
NOBODY = "0a:5b:00:00:00:00"
MIN_IPV6_MTU = 1280


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The ingress tunnel of this host."""

    family: int
    """Of the network that it rides on."""
    local: str
    device: str | None
    mtu: int


def tunnel(host: HostInputs) -> Tunnel | None:
    """The tunnel; None where this host has no address for it."""
    if host.backend.encrypting_devices():
        subnet = next(iter(host.own.subnets), None)
        if subnet is None:
            return None
        mtu = host.backend.mtu(host.underlay) - OVERHEAD[subnet.version]
        return Tunnel(subnet.version, str(subnet.network_address), None, mtu)
    for family in (4, 6):
        local = host.underlay.local(family)
        if local is not None and _published(host.own, family):
            mtu = host.underlay.mtu - OVERHEAD[family]
            return Tunnel(family, str(local), host.underlay.link, mtu)
    return None


def _published(lease: Lease, family: int) -> bool:
    return any(one.version == family for one in lease.attributes.addresses)


def member(lease: Lease, host: HostInputs, family: int) -> Member | None:
    """The member that holds a lease; None where the tunnel can't reach it."""
    encrypted = bool(host.backend.encrypting_devices())
    ends = [one.network_address for one in lease.subnets] if encrypted else []
    ends = ends if encrypted else list(lease.attributes.addresses)
    remote = next((str(one) for one in ends if one.version == family), None)
    addresses = lease.attributes.addresses
    if remote is None or not addresses or not lease.attributes.ingress:
        return None
    return Member(addresses[0], tuple(addresses), tuple(lease.subnets), remote)


def peers(inputs: ReconcileInputs, family: int) -> list[Member]:
    """All members but this host."""
    host = inputs.host
    found = (member(one, host, family) for one in inputs.leases.values() if host.is_peer(one))
    return [one for one in found if one is not None]


def device_state(own: Member, through: Tunnel, marks: Mapping[Member, int]) -> HostState:
    """The tunnel's device and what leads into it, but for the nftables tables."""
    families = (4, 6) if through.mtu >= MIN_IPV6_MTU else (4,)
    link = Link(
        MESH_DEVICE,
        "vxlan",
        mtu=through.mtu,
        mac=own.receiver,
        addrgenmode="none",
        details=Vxlan(VNI, PORT, through.local, through.device),
    )
    default = {4: "0.0.0.0/0", 6: "::/0"}
    return HostState(
        links=[link],
        addresses=[Address(MESH_DEVICE, ADDRESS)],
        sysctls=[
            Sysctl(f"net/ipv4/conf/{MESH_DEVICE}/{name}", value)
            for name, value in (("accept_local", "1"), ("rp_filter", "2"), ("forwarding", "1"))
        ]
        + [
            Sysctl(f"net/ipv6/conf/{MESH_DEVICE}/{name}", value)
            for name, value in (("forwarding", "1"), ("accept_ra", "0"))
            if 6 in families
        ],
        fdb=[FdbEntry(MESH_DEVICE, one.receiver, one.remote) for one in marks],
        neighbours=[Neighbour(MESH_DEVICE, GATEWAYS[family], NOBODY) for family in families],
        routes=[
            Route(default[family], MESH_DEVICE, GATEWAYS[family], onlink=True, table=TABLE)
            for family in families
        ],
        rules=[Rule(family, PRIORITY, TABLE, mark=MARK_TAG, mask=MARK_MASK) for family in families],
    )
