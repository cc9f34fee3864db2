# SPDX-License-Identifier: Apache-2.0
"""Find one device: all that the kernel tells of it, or only whether it is there."""

from __future__ import annotations

import errno
import fcntl
import struct

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import get_link, parse_link
from hostnet.netlink.socket import NetlinkError, NetlinkSocket

SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("=16si20x")  # struct ifreq, linux/if.h: name and, of the union, the index


def find_link(sock: NetlinkSocket, which: str | int) -> ActualLink | None:
    """The device in the socket's namespace, None when there is none. Raises NetlinkError."""
    try:
        return parse_link(sock.get(get_link(which), f"ip link show dev {which}"))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def find_index(sock: NetlinkSocket, name: str) -> int:
    """The index of the device in the socket's namespace, 0 when there is none. Raises OSError.

    netdevice(7); any socket will do. The kernel answers without taking its lock for all devices, in
    a twentieth of the time of `find_link`, which waits for whoever makes and deletes devices.
    """
    try:
        answer = fcntl.ioctl(sock.fileno(), SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return 0
        raise
    return int(_IFREQ.unpack(answer)[1])
