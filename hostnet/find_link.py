"""Read one device by name or index."""

from __future__ import annotations

import errno

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import get_link, parse_link
from hostnet.netlink.socket import NetlinkError, NetlinkSocket


def find_link(sock: NetlinkSocket, which: str | int) -> ActualLink | None:
    """The device in the socket's namespace, None when there is none. Raises NetlinkError."""
    try:
        return parse_link(sock.get(get_link(which), f"ip link show dev {which}"))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
