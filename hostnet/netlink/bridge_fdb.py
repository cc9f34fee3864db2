# SPDX-License-Identifier: Apache-2.0
"""Whether a bridge has a port with a hardware address: one question, whatever the number of ports.

A bridge holds the address of each port in its forwarding table, as an entry that does not age
(rtnl_fdb_get: Linux 5.0).
"""

from __future__ import annotations

import socket
import struct

from hostnet.find_link import find_index
from hostnet.netlink.attributes import attr
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request

RTM_GETNEIGH = 30
NDA_LLADDR, NDA_MASTER = 2, 9  # linux/neighbour.h
NUD_PERMANENT = 0x80
_NDMSG = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""


def has_port_with_mac(sock: NetlinkSocket, bridge: str, mac: str) -> bool:
    """Whether a port of the bridge, or the bridge itself, has this address.

    No, where there is no such bridge or the kernel can't be asked. Raises OSError for a socket that
    doesn't work.
    """
    index = find_index(sock, bridge)
    if not index:
        return False
    body = (
        _NDMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
        + attr(NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        + attr(NDA_MASTER, struct.pack("=I", index))
    )
    try:
        data, begin, _ = sock.get(Request(RTM_GETNEIGH, 0, body), f"bridge fdb get {mac}")
    except NetlinkError:
        return False
    state: int = _NDMSG.unpack_from(data, begin)[2]
    return bool(state & NUD_PERMANENT)
