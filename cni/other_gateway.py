"""Another device with the gateway's address, or in its network: flannel's cni0, mostly.

The kernel then has two connected routes to one subnet, and pods on one of the two devices are dead
although every ADD succeeded.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from cni import cidr
from cni.address_pool import AddressPool
from cni.errors import NETWORK_FAILURE, NOT_AVAILABLE, CniError
from hostnet.find_link import find_link
from hostnet.kinds.link import read_links
from hostnet.kinds.link_messages import delete_link
from hostnet.netlink.address_messages import dump_addresses, parse_addresses
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import POD_ALIAS

SWITCH = "obr0"
"""The device with the gateway's address where pods are attached to Open vSwitch."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class OtherGateway(NamedTuple):
    """A device in the way."""

    link: str
    address: cidr.Cidr

    def text(self, bridge: str) -> str:
        """What it means, and the mend."""
        return (
            f"device {self.link} has the address {self.address} of the pods' network, and so would "
            f"bridge {bridge}: pods of one of them would not be reached. When no pod uses "
            f"{self.link} any more: ip link del {self.link}. While pods do, attach new ones to it: "
            f'"bridge": "{self.link}" in the CNI config'
        )


def find_other_gateway(
    sock: NetlinkSocket, bridge: str, gateways: Sequence[cidr.Cidr]
) -> OtherGateway | None:
    """The first device but the bridge that is in the gateways' networks. Raises NetlinkError.

    One family is looked at: IPv4 where pods have it. Its dump is short, while each veth has an
    IPv6 address.
    """
    if not gateways:
        return None
    family = min(gateway.family for gateway in gateways)
    wanted = [gateway for gateway in gateways if gateway.family == family]
    dump = dump_addresses(FAMILIES[family])
    parts = sock.dump(dump.type, dump.body, "ip addr show")
    for each in parse_addresses(parts, {}):
        there = cidr.parse_cidr(each.address.address)
        same = any(there.value == g.value or there.network == g.network for g in wanted)
        if same and there.family == family:
            link = find_link(sock, each.ifindex)
            if link is not None and link.name != bridge:
                return OtherGateway(link.name, there)
    return None


def require_no_other_gateway(
    sock: NetlinkSocket, bridge: str, gateways: Sequence[cidr.Cidr]
) -> None:
    """Raise CniError (100) when there is one; an unused bridge of ours is removed instead.

    Ours is one whose name another config had: `bridge` was changed in the conflist.
    """
    other = find_other_gateway(sock, bridge, gateways)
    if other is None:
        return
    unused = _unused_bridge_of_ours(sock, other.link)
    if unused is None:
        raise CniError(NETWORK_FAILURE, other.text(bridge))
    sock.request(delete_link(unused), f"ip link del {other.link}")
    require_no_other_gateway(sock, bridge, gateways)


def require_pool_has_one_gateway(bridge: str, pool: AddressPool) -> None:
    """Raise CniError (50) when an ADD with addresses of the pool would be refused."""
    ranges = [each[0] for each in pool.sets]
    gateways = [cidr.Cidr(one.family, one.gateway, one.subnet.length) for one in ranges]
    with NetlinkSocket() as sock:
        other = find_other_gateway(sock, bridge, [one for one in gateways if one.value])
        if other is not None and _unused_bridge_of_ours(sock, other.link) is None:
            raise CniError(NOT_AVAILABLE, other.text(bridge))


def _unused_bridge_of_ours(sock: NetlinkSocket, name: str) -> int | None:
    """The index of a bridge that we made and nobody is attached to; None: it is none."""
    link = find_link(sock, name)
    ours = link is not None and link.kind == "bridge" and link.alias.startswith(POD_ALIAS)
    if link is None or not ours or any(one.master == link.index for one in read_links(sock)):
        return None
    return link.index
