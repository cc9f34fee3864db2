# SPDX-License-Identifier: Apache-2.0
"""Find this host's place on the underlay.

As flanneld does it (flannel, pkg/ipmatch): the device asked for by name, address or regular
expression; else the one that holds the public IP asked for; else the one the default route
leaves through, of the lowest metric. The public IP is the one asked for, which behind 1:1
NAT is on no device at all, else the device's first global address.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface

from base.errors import FlatmeshError
from hostnet.kernel import Kernel
from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.address_messages import (
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
    RT_SCOPE_UNIVERSE,
    ActualAddress,
)
from hostnet.netlink.floating_address import FLOATING
from hostnet.netns import NetnsRef
from hostnet.underlay import Underlay

Interface = IPv4Interface | IPv6Interface
DEFAULT = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}


class UnderlayError(FlatmeshError):
    """No usable underlay; the message is one line: what, and the mend."""


def detect_underlay(
    iface: str | None = None,
    *,
    public_ip: IPv4Address | None = None,
    public_ipv6: IPv6Address | None = None,
    need_v4: bool = True,
    need_v6: bool = False,
    netns: NetnsRef | None = None,
    kernel: Kernel | None = None,
) -> Underlay:
    """This host's underlay. `iface` is a device name, an address on it, or a regular
    expression that a name or an address matches from its beginning.

    Raises UnderlayError, NetlinkError, NetnsError.
    """  # noqa: D205 - the second sentence belongs to the first
    if kernel is None:
        with Kernel(netns) as own:
            return _detect(own, iface, public_ip, public_ipv6, need_v4=need_v4, need_v6=need_v6)
    return _detect(kernel, iface, public_ip, public_ipv6, need_v4=need_v4, need_v6=need_v6)


def _detect(
    kernel: Kernel,
    iface: str | None,
    public_ip: IPv4Address | None,
    public_ipv6: IPv6Address | None,
    *,
    need_v4: bool,
    need_v6: bool,
) -> Underlay:
    links = {link.name: link for link in kernel.links()}
    held = _global_addresses(kernel.addresses())
    if iface:
        link = _by_request(iface, links, held)
    else:
        public = [str(a) for a in (public_ip, public_ipv6) if a is not None]
        on = [name for name, mine in held.items() if any(str(a.ip) in public for a in mine)]
        family = socket.AF_INET if need_v4 else socket.AF_INET6
        link = links[on[0]] if on else _by_default_route(kernel, links, family)
    mine = held.get(link.name, [])
    first4 = next((a.ip for a in mine if isinstance(a, IPv4Interface)), None)
    first6 = next((a.ip for a in mine if isinstance(a, IPv6Interface)), None)
    for needed, found, version in ((need_v4, first4, 4), (need_v6, first6, 6)):
        if needed and found is None:
            raise UnderlayError(
                f"device {link.name} has no global IPv{version} address: give it one, "
                "or name another device with --iface"
            )
    return Underlay(
        link=link.name,
        mtu=link.mtu,
        public_ip=public_ip or (first4 if isinstance(first4, IPv4Address) else None),
        public_ipv6=public_ipv6 or (first6 if isinstance(first6, IPv6Address) else None),
        addresses=tuple(mine),
        mac=link.mac or None,
    )


def _global_addresses(found: list[ActualAddress]) -> dict[str, list[Interface]]:
    """By device, primary ones first, each in the kernel's order."""
    usable = [a for a in found if a.scope == RT_SCOPE_UNIVERSE and not a.flags & IFA_F_TENTATIVE]
    usable = [a for a in usable if a.protocol != FLOATING]
    usable.sort(key=lambda a: bool(a.flags & IFA_F_SECONDARY))
    held: dict[str, list[Interface]] = {}
    for one in usable:
        held.setdefault(one.address.link, []).append(ip_interface(one.address.address))
    return held


def _by_request(
    iface: str, links: dict[str, ActualLink], held: dict[str, list[Interface]]
) -> ActualLink:
    if iface in links:
        return links[iface]
    for name, mine in held.items():
        if any(str(a.ip) == iface for a in mine):
            return links[name]
    try:
        pattern = re.compile(iface)
    except re.error as error:
        raise UnderlayError(
            f"--iface {iface!r} is no device here, no address, and no regular expression: {error}"
        ) from None
    for name, link in links.items():
        if name != "lo" and pattern.match(name):
            return link
    for name, mine in held.items():
        if any(pattern.match(str(a.ip)) for a in mine):
            return links[name]
    known = ", ".join(sorted(name for name in links if name != "lo")) or "none"
    raise UnderlayError(f"--iface {iface!r} matches no device or address here (devices: {known})")


def _by_default_route(kernel: Kernel, links: dict[str, ActualLink], family: int) -> ActualLink:
    routes = [
        r
        for r in kernel.routes(family)
        if r.destination == DEFAULT[socket.AddressFamily(family)]
        and r.table == 254
        and r.link in links
    ]
    if not routes:
        version = 4 if family == socket.AF_INET else 6
        raise UnderlayError(
            f"no default IPv{version} route tells which device is the underlay: "
            "name it with --iface"
        )
    return links[min(routes, key=lambda r: r.metric).link]
