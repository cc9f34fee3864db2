# SPDX-License-Identifier: Apache-2.0
"""Whether a tunnel's device could be made now: tried, and taken away at once.

The kernel decides only when it is asked: a VXLAN device with a VNI that another one has is refused
when it is made, one whose UDP port a program has when it is set up.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterable

from hostnet.kernel import Kernel
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import change_link, delete_link, settings
from hostnet.kinds.links.vxlan import IFLA_VXLAN_ID, IFLA_VXLAN_PORT, Vxlan, VxlanKind
from hostnet.netlink.attributes import u32
from hostnet.netlink.socket import NetlinkError
from hostnet.ownership import LINK_ALIAS, TRIAL_LINK
from hostnet.port_owner import port_owner


def vxlan_obstacle(wanted: Iterable[Vxlan], ours: Collection[str]) -> str | None:
    """Why one of these devices can't be made; `ours` are the names that it may have already.

    Raises NetlinkError, OSError.
    """
    with Kernel() as kernel:
        links = kernel.links()
        for one in wanted:
            other = _same_vni(links, one)
            if other is not None and (other.name in ours or other.alias == LINK_ALIAS):
                # it becomes the wanted one, or goes; while it is down it does not have the port
                in_use = None if other.up else udp_port_obstacle(one.port)
                if in_use is not None:
                    return in_use
                continue
            try:
                _try(kernel, one)
            except NetlinkError as error:
                if error.errno == errno.EEXIST:
                    by = other.name if other is not None else "another VXLAN device"
                    return f"VNI {one.vni} with UDP port {one.port} is in use by device {by}"
                if error.errno == errno.EADDRINUSE:
                    return f"UDP port {one.port} is in use by {port_owner('udp', one.port)}"
                return str(error)
    return None


def udp_port_obstacle(port: int, held: Collection[int] = ()) -> str | None:
    """Why no program of ours could take a UDP port; `held` are ports that ours have already."""
    if port in held:
        return None
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"UDP port {port} is in use by {port_owner('udp', port)}"
    return None


def _same_vni(links: Iterable[ActualLink], wanted: Vxlan) -> ActualLink | None:
    for link in links:
        port = int.from_bytes(link.data.get(IFLA_VXLAN_PORT, b"")[:2], "big")
        if link.kind == "vxlan" and (u32(link.data.get(IFLA_VXLAN_ID)), port) == (
            wanted.vni,
            wanted.port,
        ):
            return link
    return None


def _try(kernel: Kernel, wanted: Vxlan) -> None:
    """Raises NetlinkError."""
    sock = kernel.socket
    with contextlib.suppress(NetlinkError):  # of a daemon that was killed meanwhile
        sock.request(delete_link(TRIAL_LINK), f"ip link del {TRIAL_LINK}")
    request = VxlanKind().add(TRIAL_LINK, settings(name=TRIAL_LINK), wanted, kernel.view.index)
    sock.request(request, f"ip link add {TRIAL_LINK} type vxlan id {wanted.vni}")
    try:
        sock.request(change_link(TRIAL_LINK, up=True), f"ip link set {TRIAL_LINK} up")
    finally:
        with contextlib.suppress(NetlinkError):  # another thread tries, too, and took it away
            sock.request(delete_link(TRIAL_LINK), f"ip link del {TRIAL_LINK}")
