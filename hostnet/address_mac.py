"""Hardware addresses that follow from IP addresses.

An address that is given to another pod later keeps its hardware address, so no neighbour cache
is ever wrong.
"""

from __future__ import annotations

import binascii
import ipaddress

GATEWAY_PREFIX = "0a:58"
"""Of pods' ends and of the bridge with their gateway."""


def mac_after(packed: bytes, prefix: str) -> str:
    """`prefix` and the four bytes of an IPv4 address, or four that follow from an IPv6 one."""
    tail = packed if len(packed) == 4 else binascii.crc32(packed).to_bytes(4, "big")
    return f"{prefix}:{tail.hex(':')}"


def link_local(mac: str) -> str:
    """The IPv6 link-local address that follows from a hardware address (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    address = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier)
    return f"{address}/64"
