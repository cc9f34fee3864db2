"""Hardware addresses that follow from IP addresses.

An address that is given to another pod later keeps its hardware address, so no neighbour cache
is ever wrong.
"""

from __future__ import annotations

import binascii

GATEWAY_PREFIX = "0a:58"
"""Of pods' ends and of the bridge with their gateway."""


def mac_after(packed: bytes, prefix: str) -> str:
    """`prefix` and the four bytes of an IPv4 address, or four that follow from an IPv6 one."""
    tail = packed if len(packed) == 4 else binascii.crc32(packed).to_bytes(4, "big")
    return f"{prefix}:{tail.hex(':')}"
