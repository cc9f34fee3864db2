# SPDX-License-Identifier: Apache-2.0
"""Packets built and read in plain Python, to compare the C code's with."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_ECN = 1, 4, 5, 0x80
DF = 0x4000


def checksum(data: bytes) -> int:
    """RFC 1071, complemented."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class Headers:
    """Everything in a packet but its payload."""

    source: str = "10.5.2.2"
    destination: str = "10.5.1.2"
    protocol: int = TCP
    ports: tuple[int, int] = (40000, 80)
    sequence: int = 1000
    acknowledgement: int = 77
    flags: int = ACK
    window: int = 502
    options: bytes = b""
    """Of TCP; a multiple of 4 bytes."""
    identification: int = 7
    fragment: int = DF
    """The IPv4 flags and offset word."""
    ttl: int = 64
    tos: int = 0
    flow_label: int = 0

    @property
    def version(self) -> int:
        return ip_address(self.source).version

    def transport(self, length: int) -> bytes:
        """The transport header with a checksum of 0, for `length` bytes of payload."""
        if self.protocol == UDP:
            return struct.pack(">HHHH", *self.ports, 8 + length, 0)
        words = 5 + len(self.options) // 4
        fixed = struct.pack(
            ">HHIIBBHHH",
            *self.ports,
            self.sequence % 2**32,
            self.acknowledgement,
            words << 4,
            self.flags,
            self.window,
            0,
            0,
        )
        return fixed + self.options

    def network(self, length: int) -> bytes:
        """The network header for `length` bytes of transport header and payload."""
        addresses = ip_address(self.source).packed + ip_address(self.destination).packed
        if self.version == 6:
            word = 6 << 28 | self.tos << 20 | self.flow_label
            return struct.pack(">IHBB", word, length, self.protocol, self.ttl) + addresses
        fixed = struct.pack(
            ">BBHHHBBH",
            0x45,
            self.tos,
            20 + length,
            self.identification % 2**16,
            self.fragment,
            self.ttl,
            self.protocol,
            0,
        )
        right = checksum(fixed + addresses)
        return fixed[:10] + right.to_bytes(2, "big") + addresses

    def pseudo(self, length: int) -> bytes:
        addresses = ip_address(self.source).packed + ip_address(self.destination).packed
        return addresses + struct.pack(">IHBB", length, 0, 0, self.protocol)

    def packet(self, payload: bytes) -> bytes:
        """A whole packet as a sender puts it on the wire."""
        transport = self.transport(len(payload))
        length = len(transport) + len(payload)
        right = checksum(self.pseudo(length) + transport + payload)
        if self.protocol == UDP and right == 0:
            right = 0xFFFF
        at = 6 if self.protocol == UDP else 16
        transport = transport[:at] + right.to_bytes(2, "big") + transport[at + 2 :]
        return self.network(length) + transport + payload

    def super_packet(self, payload: bytes, size: int) -> bytes:
        """What a TUN device hands out: a vnet header and a packet that nobody has cut yet."""
        transport = self.transport(len(payload))
        length = len(transport) + len(payload)
        at = 6 if self.protocol == UDP else 16
        open_sum = ~checksum(self.pseudo(length)) & 0xFFFF
        transport = transport[:at] + open_sum.to_bytes(2, "big") + transport[at + 2 :]
        network = self.network(length)
        kind = GSO_UDP if self.protocol == UDP else GSO_TCPV4 if self.version == 4 else GSO_TCPV6
        if self.protocol == TCP and self.flags & CWR:
            kind |= GSO_ECN
        headers = len(network) + len(transport)
        vnet = struct.pack("=BBHHHH", NEEDS_CSUM, kind, headers, size, len(network), at)
        return vnet + network + transport + payload


def cut(headers: Headers, payload: bytes, size: int) -> list[bytes]:
    """The packets that a super-packet stands for."""
    from dataclasses import replace

    starts = range(0, len(payload), size)
    packets = []
    for number, start in enumerate(starts):
        flags = headers.flags
        if number != len(starts) - 1:
            flags &= ~(FIN | PSH)
        if number:
            flags &= ~CWR
        one = replace(
            headers,
            sequence=headers.sequence + start,
            flags=flags,
            identification=headers.identification + number,
        )
        packets.append(one.packet(payload[start : start + size]))
    return packets
