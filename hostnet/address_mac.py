# SPDX-License-Identifier: Apache-2.0
"""Hardware addresses that follow from IP addresses.

An address that is given to another pod later keeps its hardware address, so no neighbour cache
is ever wrong.
"""

from __future__ import annotations

import binascii
import socket

GATEWAY_PREFIX = "0a:58"
"""Of pods' ends and of the bridge with their gateway."""


def mac_after(packed: bytes, prefix: str) -> str:
    """`prefix` and the four bytes of an IPv4 address, or four that follow from an IPv6 one."""
    tail = packed if len(packed) == 4 else binascii.crc32(packed).to_bytes(4, "big")
    return f"{prefix}:{tail.hex(':')}"


def link_local(mac: str) -> str:
    """The IPv6 link-local address that a kernel makes of a hardware address by default."""
    return socket.inet_ntop(socket.AF_INET6, packed_link_local(bytes.fromhex(mac.replace(":", ""))))


def packed_link_local(mac: bytes) -> bytes:
    """The same, from and to bytes (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
