# SPDX-License-Identifier: Apache-2.0
"""Send forged frames from a namespace, and look at what arrives in another.

Frames are built with scapy in the test's own process and sent through a packet socket (packet(7))
that is opened inside the attacker's namespace: the kernel there neither checks nor completes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator

from scapy.packet import Packet

from hostnet.netns import run_in

ETH_P_ALL = 3  # linux/if_ether.h
SIOCGIFHWADDR = 0x8927  # linux/sockios.h
BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_of(netns: str, device: str) -> str:
    """The hardware address of a device inside a namespace."""

    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, SIOCGIFHWADDR, struct.pack("256s", device.encode()))
        return answer[18:24].hex(":")

    return run_in(netns, ask)


def send_frames(netns: str, device: str, frames: Iterable[Packet]) -> None:
    """Send Ethernet frames out of a device, exactly as they are."""
    with packet_socket(netns, device) as sock:
        for frame in frames:
            sock.send(bytes(frame))


@contextlib.contextmanager
def packet_socket(netns: str, device: str) -> Iterator[socket.socket]:
    """A packet socket on a device inside a namespace: it sends to it and sees all of it."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind((device, 0))
        return sock

    sock = run_in(netns, make)
    try:
        yield sock
    finally:
        sock.close()


def arrives(sock: socket.socket, wanted: Callable[[bytes], bool], timeout: float = 1.0) -> bool:
    """Whether a frame that `wanted` accepts comes in on a packet socket within these seconds.

    Frames that the namespace itself sends don't count.
    """
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            frame, address = sock.recvfrom(65536)
        except TimeoutError:
            return False
        if address[2] != socket.PACKET_OUTGOING and wanted(frame):
            return True
    return False
