# SPDX-License-Identifier: Apache-2.0
"""Another device with the gateway's address, or in its network: flannel's cni0, mostly.

The kernel then has two connected routes to one subnet, and pods on one of the two devices are dead
although every ADD succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cni import cidr
from cni.address_pool import AddressPool
from cni.errors import NETWORK_FAILURE, NOT_AVAILABLE, CniError
from hostnet.find_link import find_index, find_link
from hostnet.kinds.link_messages import delete_link
from hostnet.netlink.address_messages import dump_addresses, parse_addresses
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import POD_ALIAS

SWITCH = "obr0"
"""The device with the gateway's address where pods are attached to Open vSwitch."""


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


def read_addresses(
    sock: NetlinkSocket, gateways: Sequence[cidr.Cidr]
) -> list[tuple[int, cidr.Cidr]]:
    """The addresses of all devices, by index: of IPv4 where a gateway has it, else of IPv6.

    A dump of IPv4 is short, while each veth has an IPv6 address. Raises NetlinkError.
    """
    if not gateways:
        return []
    family = min(gateway.family for gateway in gateways)
    dump = dump_addresses(cidr.FAMILIES[family])
    parts = sock.dump(dump.type, dump.body, "ip addr show")
    there = [
        (each.ifindex, cidr.parse_cidr(each.address.address)) for each in parse_addresses(parts, {})
    ]
    return [one for one in there if one[1].family == family]


def find_other_gateway(
    sock: NetlinkSocket,
    bridge: str,
    gateways: Sequence[cidr.Cidr],
    there: Sequence[tuple[int, cidr.Cidr]],
) -> OtherGateway | None:
    """The first device but the bridge that is in the gateways' networks. Raises NetlinkError.

    `there` is what `read_addresses` has read.
    """
    own = find_index(sock, bridge)
    for index, address in there:
        same = (address.value == g.value or address.network == g.network for g in gateways)
        if index != own and any(same):
            link = find_link(sock, index)
            if link is not None and link.name != bridge:
                return OtherGateway(link.name, address)
    return None


def require_no_other_gateway(
    sock: NetlinkSocket, bridge: str, gateways: Sequence[cidr.Cidr]
) -> list[tuple[int, cidr.Cidr]]:
    """Raise CniError (100) when there is one; an unused bridge of ours is removed instead.

    Ours is one whose name another config had: `bridge` was changed in the conflist. Returns what
    `read_addresses` has read.
    """
    there = read_addresses(sock, gateways)
    other = find_other_gateway(sock, bridge, gateways, there)
    if other is None:
        return there
    unused = _unused_bridge_of_ours(sock, other.link)
    if unused is None:
        raise CniError(NETWORK_FAILURE, other.text(bridge))
    sock.request(delete_link(unused), f"ip link del {other.link}")
    return require_no_other_gateway(sock, bridge, gateways)


def require_pool_has_one_gateway(bridge: str, pool: AddressPool) -> None:
    """Raise CniError (50) when an ADD with addresses of the pool would be refused."""
    ranges = [each[0] for each in pool.sets]
    gateways = [cidr.Cidr(one.family, one.gateway, one.subnet.length) for one in ranges]
    with NetlinkSocket() as sock:
        wanted = [one for one in gateways if one.value]
        other = find_other_gateway(sock, bridge, wanted, read_addresses(sock, wanted))
        if other is not None and _unused_bridge_of_ours(sock, other.link) is None:
            raise CniError(NOT_AVAILABLE, other.text(bridge))


def _unused_bridge_of_ours(sock: NetlinkSocket, name: str) -> int | None:
    """The index of a bridge that we made and nobody is attached to; None: it is none."""
    from hostnet.kinds.link import read_links  # noqa: PLC0415 - 11 ms of an ADD without a daemon

    link = find_link(sock, name)
    ours = link is not None and link.kind == "bridge" and link.alias.startswith(POD_ALIAS)
    if link is None or not ours or any(one.master == link.index for one in read_links(sock)):
        return None
    return link.index
