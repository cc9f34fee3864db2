# SPDX-License-Identifier: Apache-2.0
"""Forged frames with a name each, and which of them reach a victim.

A frame's name follows its last header as a trailer, so that ARP and neighbour discovery have one,
too. What nobody gets is told by a later frame, the control, which must arrive.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

CONTROLS = ("before", "after")
PORT = 9  # discard: a datagram to it is harmless
DEADLINE = 20.0  # seconds for the control to arrive


def trailer(name: str) -> bytes:
    """What follows the last header of a frame with this name."""
    return f"<{name}>".encode()


def named(name: str, frame: Packet) -> bytes:
    """The frame's bytes with its name as a trailer."""
    return bytes(frame) + trailer(name)


def datagram(source_mac: str, target_mac: str, source: str, target: str) -> Packet:
    """A UDP datagram in a frame."""
    ip = (IPv6 if ":" in source else IP)(src=source, dst=target)
    return Ether(src=source_mac, dst=target_mac) / ip / UDP(sport=PORT, dport=PORT) / b"forged"


def arp(sender: str, target: str, claimed: str, about: str, *, claimed_mac: str = "") -> Packet:
    """An ARP reply of `sender`'s MAC: `claimed` is at it, or at another MAC."""
    says = ARP(op=2, hwsrc=claimed_mac or sender, psrc=claimed, hwdst=target, pdst=about)
    return Ether(src=sender, dst=target) / says


def advertisement(sender: str, target: str, source: str, asker: str, claimed: str) -> Packet:
    """A neighbour advertisement with which `sender` claims an address."""
    says = ICMPv6ND_NA(tgt=claimed, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=sender)
    return Ether(src=sender, dst=target) / IPv6(src=source, dst=asker, hlim=255) / says


def solicitation(
    sender: str, target: str, claimed: str, asked: str, *, claimed_mac: str = ""
) -> Packet:
    """A neighbour solicitation from an address; the asked host notes the MAC in it."""
    says = ICMPv6ND_NS(tgt=asked) / ICMPv6NDOptSrcLLAddr(lladdr=claimed_mac or sender)
    return Ether(src=sender, dst=target) / IPv6(src=claimed, dst=asked, hlim=255) / says


def that_reach(
    victims: Iterable[socket.socket],
    frames: Mapping[str, bytes],
    send: Callable[[bytes], object],
    harmless: Callable[[str], bytes],
) -> set[str]:
    """Send all frames between two harmless ones; returns the names of those that any victim got."""
    return set().union(*that_reach_each(victims, frames, send, harmless))


def that_reach_each(
    victims: Iterable[socket.socket],
    frames: Mapping[str, bytes],
    send: Callable[[bytes], object],
    harmless: Callable[[str], bytes],
) -> list[set[str]]:
    """Send all frames between two harmless ones; returns the names of what came in, by victim.

    `harmless` writes one with a name. They come in on the first victim's socket: the one before the
    others says that the way is open, the one after them that all that gets through has.
    """
    first, *others = victims
    names = {*frames, *CONTROLS}
    for control in CONTROLS:
        data = harmless(control)
        deadline = time.monotonic() + DEADLINE
        seen: set[str] = set()
        while control not in seen:
            assert time.monotonic() < deadline, f"not within {DEADLINE} s: {control}"
            send(data)
            first.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                _note(first, names, seen)
            seen |= _names(first, names)
        if control == CONTROLS[0]:
            for _ in range(2):  # a first packet may be lost while the tunnel looks for its MAC
                for frame in frames.values():
                    send(frame)
    found = [seen, *(_names(victim, names) for victim in others)]
    return [names - {*CONTROLS} for names in found]


def _names(victim: socket.socket, names: Collection[str]) -> set[str]:
    """What waits on a socket now."""
    seen: set[str] = set()
    victim.settimeout(0.0)
    with contextlib.suppress(BlockingIOError):
        while True:
            _note(victim, names, seen)
    return seen


def _note(victim: socket.socket, names: Collection[str], seen: set[str]) -> None:
    data, address = victim.recvfrom(65536)
    if address[2] != socket.PACKET_OUTGOING:
        seen.update(name for name in names if data.endswith(trailer(name)))
