"""Checksum offload of a device: `ethtool -K DEV tx off`.

A packet that leaves the kernel for a userspace switch must be finished: with offload on, its
checksum is a promise to hardware that isn't there, and TCP moves nothing. Turning it off on
the device where packets enter the switch makes the kernel compute checksums, and segment, there.

Sources: linux/ethtool.h; ethtool(8).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
IFREQ = struct.Struct("16sQ16x")  # struct ifreq: name, pointer; 40 bytes


def turn_tx_checksum_off(name: str) -> bool:
    """Turn it off; says whether it was on. Raises OSError (ENODEV: no such device)."""
    if not _call(name, ETHTOOL_GTXCSUM, 0):
        return False
    _call(name, ETHTOOL_STXCSUM, 0)
    return True


def _call(name: str, command: int, value: int) -> int:
    data = array.array("I", [command, value])  # struct ethtool_value
    request = IFREQ.pack(name.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    return data[1]
