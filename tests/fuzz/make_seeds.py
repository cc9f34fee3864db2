# SPDX-License-Identifier: Apache-2.0
"""Write inputs that reach deep into the packet code: python -m tests.fuzz.make_seeds DIRECTORY."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path

from tests.unit.flannel.udp_reference import (
    ACK,
    CWR,
    FIN,
    GSO_TCPV6,
    NEEDS_CSUM,
    PSH,
    TCP,
    UDP,
    Headers,
    cut,
)

VNET = bytes(10)
V4 = Headers(source="80.0.0.2", destination="80.0.0.3")
V6 = Headers(source="4005::2", destination="4005::3")


def seeds() -> list[bytes]:
    found = []
    for base, own in ((V4, "16.0.0.2"), (V6, "1005::2")):
        for protocol in (TCP, UDP):
            for flags in (ACK, ACK | PSH, ACK | FIN, ACK | CWR):
                headers = replace(base, protocol=protocol, flags=flags)
                whole = headers.super_packet(b"x" * 300, 100)
                plain = VNET + replace(headers, fragment=0).packet(b"y" * 700)
                for how in (0, 5, 6, 7, 0x40, 0x45):
                    batch = b"".join(len(p).to_bytes(2, "big") + p for p in (whole, plain))
                    found.append(bytes([0, how]) + batch)
                inward = replace(headers, destination=own)
                parts = cut(inward, b"z" * 90, 30)
                message = len(parts[0]).to_bytes(2, "big") + b"".join(parts)
                found += [bytes([1, how]) + message for how in (1, 5, 2)]
                parts = cut(headers, b"w" * 90, 30)
                packets = b"".join(bytes([len(p)]) + p for p in parts)
                found += [bytes([2, how]) + packets for how in (0x03, 0x01, 0x33, 0x73)]
                parts = cut(headers, b"s" * 6, 2)  # so short that a TCP header would not fit
                packets = b"".join(bytes([len(p)]) + p for p in parts)
                found += [bytes([2, how]) + packets for how in (0x03, 0x01)]
                fragment = replace(headers, fragment=0).packet(b"v" * 700)
                found.append(bytes([3, 1, 0]) + fragment)
    # cut off inside the transport header; and a transport header far behind the network header
    short = replace(V4, protocol=UDP)
    stump = short.network(4) + short.transport(0)[:4]
    found += [bytes([2, 3]) + bytes([len(stump)]) + stump]
    far = V6.network(600) + b"\0" * 300 + V6.transport(0) + b"u" * 280
    vnet = struct.pack("=BBHHHH", NEEDS_CSUM, GSO_TCPV6, 360, 100, 340, 16)
    batch = (len(vnet + far)).to_bytes(2, "big") + vnet + far
    found.append(bytes([0, 0]) + batch)
    return found


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (directory / f"seed{number}").write_bytes(seed)
