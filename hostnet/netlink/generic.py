# SPDX-License-Identifier: Apache-2.0
"""Generic netlink: families by name (linux/genetlink.h).

Asking for a family makes the kernel load its module, where it has one.
"""

from __future__ import annotations

import errno
import struct

from hostnet.netlink.attributes import attr_text, attributes, nested, text_of, u32
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request
from hostnet.netns import NetnsRef

NETLINK_GENERIC = 16  # linux/netlink.h
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_MCAST_GROUPS = 1, 2, 7
CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID = 1, 2
GENL_HEADER = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved


def family_id(sock: NetlinkSocket, name: str) -> int:
    """The message type of a family. Raises NetlinkError: ENOENT, the kernel has none such."""
    return _id_of(_family(sock, name))


def multicast_group(sock: NetlinkSocket, name: str, group: str) -> tuple[int, int] | None:
    """The message type of a family, and the number of a group; None: it has none of this name.

    Raises NetlinkError likewise.
    """
    found = _family(sock, name)
    for one in map(nested, nested(found.get(CTRL_ATTR_MCAST_GROUPS, b"")).values()):
        if text_of(one.get(CTRL_ATTR_MCAST_GRP_NAME)) == group:
            return _id_of(found), u32(one.get(CTRL_ATTR_MCAST_GRP_ID))
    return None


def _family(sock: NetlinkSocket, name: str) -> dict[int, bytes]:
    body = GENL_HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0) + attr_text(CTRL_ATTR_FAMILY_NAME, name)
    data, begin, end = sock.get(Request(GENL_ID_CTRL, 0, body), f"generic netlink {name}")
    return attributes(data, begin + GENL_HEADER.size, end)


def _id_of(family: dict[int, bytes]) -> int:
    return int(struct.unpack_from("=H", family[CTRL_ATTR_FAMILY_ID])[0])


def has_family(name: str, netns: NetnsRef | None = None) -> bool:
    """Whether the kernel speaks a family. Raises NetlinkError, OSError."""
    with NetlinkSocket(netns, protocol=NETLINK_GENERIC) as sock:
        try:
            family_id(sock, name)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
    return True
