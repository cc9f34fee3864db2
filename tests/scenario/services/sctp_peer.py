# SPDX-License-Identifier: Apache-2.0
"""The first two packets of an SCTP association (RFC 9260), INIT and INIT ACK, on raw sockets.

Thus SCTP is tried also where the kernel tracks and translates it, but has no SCTP sockets.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time

INIT, INIT_ACK = 1, 2
STATE_COOKIE = 7
CHUNK_HEADER = 4
CRC32C = 0x82F63B78  # the polynomial, bits reversed


def raw_socket(family: int) -> socket.socket:
    """Receives and sends SCTP packets of one family."""
    return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)


def received(one: socket.socket) -> tuple[bytes, str]:
    """The next packet without its IP header, and its source address."""
    packet, peer = one.recvfrom(4096)
    if one.family == socket.AF_INET:
        packet = packet[(packet[0] & 0xF) * 4 :]
    return packet, str(peer[0])


def answer(packet: bytes, port: int, text: bytes) -> bytes | None:
    """The INIT ACK to an INIT at this port, with `text` as its cookie; None to all others."""
    if not _valid(packet):
        return None
    source, target = struct.unpack_from("!HH", packet)
    if target != port or packet[12] != INIT:
        return None
    tag = struct.unpack_from("!I", packet, 12 + CHUNK_HEADER)[0]
    cookie = struct.pack("!HH", STATE_COOKIE, 4 + len(text)) + text
    return _packet(target, source, tag, INIT_ACK, cookie)


def ask_sctp(client: socket.socket, address: str, port: int, timeout: float) -> bytes:
    """The cookie that answers an INIT. Raises TimeoutError, and OSError where it is refused."""
    source = 32768 + secrets.randbelow(28000)
    client.connect((address, port if client.family == socket.AF_INET else 0))
    client.send(_packet(source, port, 0, INIT, b""))
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        client.settimeout(left)
        packet, _ = received(client)
        if not _valid(packet):
            continue
        if struct.unpack_from("!HH", packet) == (port, source) and packet[12] == INIT_ACK:
            length = struct.unpack_from("!H", packet, 34)[0]
            return packet[36 : 32 + length]
    raise TimeoutError


def _packet(source: int, target: int, tag: int, kind: int, parameters: bytes) -> bytes:
    body = struct.pack("!IIHHI", secrets.randbits(32) | 1, 65536, 1, 1, secrets.randbits(32))
    chunk = struct.pack("!BBH", kind, 0, CHUNK_HEADER + len(body) + len(parameters))
    chunk += body + parameters + bytes(-len(parameters) % 4)
    header = struct.pack("!HHI", source, target, tag)
    return header + struct.pack("<I", _checksum(header + bytes(4) + chunk)) + chunk


def _valid(packet: bytes) -> bool:
    if len(packet) < 32:
        return False
    (sent,) = struct.unpack_from("<I", packet, 8)
    return bool(sent == _checksum(packet[:8] + bytes(4) + packet[12:]))


def _checksum(data: bytes) -> int:
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (CRC32C if found & 1 else 0)
    return found ^ 0xFFFFFFFF
