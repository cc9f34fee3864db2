# SPDX-License-Identifier: Apache-2.0
"""Frames that tell neighbours which MAC an address has: gratuitous ARP, and unsolicited ND.

A neighbour that knows the address with another MAC goes on sending there until it has asked in
vain, up to half a minute. These frames correct its entry; they make none where there is none.

IPv4: an ARP reply to everybody, whose target is its sender (RFC 5227 section 3 asks for a request;
a reply makes nobody answer, and both correct an entry: RFC 826). IPv6: an unsolicited neighbour
advertisement to all nodes with the override flag (RFC 4861 section 7.2.6).

They are sent out of the bridge, which copies them to its ports. A packet socket is kept open: to
close one waits for an RCU grace period, some 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Sequence

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, ETH_P_8021Q = 0x0800, 0x0806, 0x86DD, 0x8100
ARP_REPLY, ICMPV6, ADVERTISEMENT = 2, 58, 136
OVERRIDE = 0x20000000
TARGET_LINK_LAYER_ADDRESS = 2
EVERYBODY = b"\xff" * 6
ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
NO_PROTOCOL = 0
"""A packet socket that receives nothing."""


def announcement(mac: str, address: str, vlan: int = 0) -> bytes:
    """The frame that says that an address, without prefix length, has this MAC. Pure."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    if ":" in address:
        body = _advertisement(hardware, socket.inet_pton(socket.AF_INET6, address))
        return _ethernet(ALL_NODES_MAC, hardware, ETH_P_IPV6, vlan) + body
    packed = socket.inet_pton(socket.AF_INET, address)
    head = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, ARP_REPLY)
    body = head + hardware + packed + hardware + packed
    return _ethernet(EVERYBODY, hardware, ETH_P_ARP, vlan) + body


class FrameSender:
    """A packet socket in the namespace of the thread that sends first. Any thread may use it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._mutex = threading.Lock()

    def send(self, device: str, frames: Sequence[bytes]) -> None:
        """Send frames out of a device. Raises OSError."""
        with self._mutex:
            if self._socket is None:
                self._socket = open_packet_socket()
        for frame in frames:
            self._socket.sendto(frame, (device, _protocol(frame)))

    def close(self) -> None:
        """Close the socket."""
        with self._mutex:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def send_and_leave(device: str, frames: Sequence[bytes]) -> None:
    """Send frames from a process that ends soon, which need not wait for the socket's end.

    For a process with one thread. A child holds the socket; it has no other descriptor of ours,
    and is waited for until it has sent. Raises OSError.
    """
    done, sent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(sent, 3)
            os.closerange(0, 3)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            sock = open_packet_socket()
            for frame in frames:
                sock.sendto(frame, (device, _protocol(frame)))
        finally:
            with contextlib.suppress(OSError):
                os.close(3)
            os._exit(0)
    os.close(sent)
    os.read(done, 1)  # the end of the pipe: all is sent, or can't be
    os.close(done)


def open_packet_socket() -> socket.socket:
    """Raises OSError (EPERM: without CAP_NET_RAW)."""
    return socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NO_PROTOCOL
    )


def _protocol(frame: bytes) -> int:
    return int.from_bytes(frame[12:14], "big")


def _ethernet(destination: bytes, source: bytes, protocol: int, vlan: int) -> bytes:
    tag = struct.pack("!HH", ETH_P_8021Q, vlan) if vlan else b""
    return destination + source + tag + protocol.to_bytes(2, "big")


def _advertisement(mac: bytes, address: bytes) -> bytes:
    option = bytes((TARGET_LINK_LAYER_ADDRESS, 1)) + mac
    message = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, OVERRIDE) + address + option
    pseudo = address + ALL_NODES + struct.pack("!I3xB", len(message), ICMPV6)
    checksum = _checksum(pseudo + message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + address + ALL_NODES + message


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total + (total >> 16)) & 0xFFFF)
