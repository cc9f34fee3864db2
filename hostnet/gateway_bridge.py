# SPDX-License-Identifier: Apache-2.0
"""The Linux bridge with the pods' gateway addresses, as the CNI plugins would make it.

A daemon that has to attach something to the bridge may be there before the first pod. Made
here it bears the pods' mark, so that no reconcile ever sweeps a bridge that pods are on.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from hostnet import link_sysctls, sysctl
from hostnet.address_mac import GATEWAY_PREFIX, mac_after
from hostnet.find_link import find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_link, change_link, settings
from hostnet.netlink.address_messages import (
    RT_SCOPE_LINK,
    Address,
    delete_addresses,
    dump_addresses,
    parse_addresses,
    put_addresses,
)
from hostnet.netlink.attributes import pack_address
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.ownership import POD_ALIAS

BRIDGE_ALIAS = f"{POD_ALIAS} bridge"


class BridgeInTheWayError(OSError):
    """The bridge's name is another device's; the message is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


def make_gateway_bridge(
    sock: NetlinkSocket, name: str, mtu: int | None, mac: str, data: bytes = b""
) -> None:
    """Make the bridge, up and with the pods' mark; one that is there is left as it is.

    `mtu` in bytes, None for the kernel's default; `data` is the bridge's IFLA_INFO_DATA. It is the
    only function that makes one: for the CNI plugins and for the data planes. Raises NetlinkError.
    """
    common = settings(name=name, mtu=mtu, mac=mac)
    try:
        sock.request(add_link("bridge", common, data, up=True), f"ip link add {name} type bridge")
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            return  # an ADD, or the daemon, made it meanwhile
        raise
    sysctl.write(link_sysctls.of_gateway(name))  # a kernel without IPv6 lacks some
    # An MTU that is set after the bridge was made stays when ports come and go; one given with
    # RTM_NEWLINK does not.
    sock.request(
        change_link(name, settings(alias=BRIDGE_ALIAS, mtu=mtu)),
        f"ip link set {name} alias '{BRIDGE_ALIAS}' mtu {mtu}",
    )


def ensure_gateway_bridge(
    sock: NetlinkSocket, name: str, mtu: int, gateways: Sequence[str]
) -> ActualLink:
    """The bridge, up, with these addresses (`10.5.76.1/24`); what else it has stays.

    Raises BridgeInTheWayError, NetlinkError.
    """
    found = find_link(sock, name)
    if found is None:
        _, first = pack_address(gateways[0].partition("/")[0])
        make_gateway_bridge(sock, name, mtu, mac_after(first, GATEWAY_PREFIX))
        found = find_link(sock, name)
    if found is None or found.kind != "bridge":
        raise BridgeInTheWayError(f"device {name} exists and is no bridge: rename or remove it")
    if not found.alias:
        common = settings(alias=BRIDGE_ALIAS, mtu=mtu, mac=found.mac)
        sock.request(change_link(found.index, common), f"ip link set {name} mtu {mtu}")
    elif found.alias.startswith(POD_ALIAS) and found.mtu != mtu:
        sock.request(change_link(found.index, settings(mtu=mtu)), f"ip link set {name} mtu {mtu}")
    if not found.up:
        sock.request(change_link(found.index, up=True), f"ip link set {name} up")
    ensure_addresses(sock, found, gateways)
    return found


def addresses_of(sock: NetlinkSocket, link: ActualLink) -> set[str]:
    """The addresses on a device, with their prefix lengths. Raises NetlinkError."""
    dump = dump_addresses(0, link.index)
    parts = sock.dump(dump.type, dump.body, f"ip addr show {link.name}")
    found = parse_addresses(parts, {link.index: link.name})
    return {each.address.address for each in found if each.ifindex == link.index}


def ensure_addresses(
    sock: NetlinkSocket, link: ActualLink, wanted: Sequence[str], *, prefix_route: bool = True
) -> list[str]:
    """Give a device the addresses that it lacks; returns commands. Raises NetlinkError."""
    present = addresses_of(sock, link)
    missing = [Address(link.name, text) for text in wanted if text not in present]
    if missing:
        batch = put_addresses(missing, {link.name: link.index}, 0, prefix_route=prefix_route)
        for error in sock.execute_batch(batch).values():
            raise error
    return [f"ip addr replace {one.address} dev {link.name}" for one in missing]


def remove_other_addresses(
    sock: NetlinkSocket, link: ActualLink, wanted: Sequence[str]
) -> list[str]:
    """Take away what a device has beside these and the kernel's link-local; returns commands.

    Raises NetlinkError.
    """
    dump = dump_addresses(0, link.index)
    parts = sock.dump(dump.type, dump.body, f"ip addr show {link.name}")
    found = parse_addresses(parts, {link.index: link.name})
    others = [
        each.address
        for each in found
        if each.ifindex == link.index
        and each.scope != RT_SCOPE_LINK
        and each.address.address not in wanted
    ]
    if others:
        batch = delete_addresses(others, {link.name: link.index})
        for error in sock.execute_batch(batch).values():
            if error.errno != errno.EADDRNOTAVAIL:
                raise error
    return [f"ip addr del {one.address} dev {link.name}" for one in others]


def set_up(
    sock: NetlinkSocket, name: str, mtu: int | None = None, *, link_local: bool = False
) -> ActualLink | None:
    """Bring a device up with this MTU; None when it isn't there.

    Without `link_local` it makes no IPv6 address of its own.

    Raises NetlinkError.
    """
    found = find_link(sock, name)
    if found is None:
        return None
    if not link_local and found.addrgenmode not in (None, "none"):
        sock.request(
            change_link(found.index, settings(addrgenmode="none")),
            f"ip link set {name} addrgenmode none",
        )
    if not found.up or (mtu is not None and found.mtu != mtu):
        sock.request(
            change_link(found.index, settings(mtu=mtu), up=True), f"ip link set {name} up mtu {mtu}"
        )
    return find_link(sock, name)
