# SPDX-License-Identifier: Apache-2.0
"""The frames that announce an address, read by another implementation."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from hostnet.announcements import announcement

MAC = "0a:58:0a:05:01:02"


@pytest.mark.parametrize("vlan", [0, 100])
def test_gratuitous_arp(vlan: int) -> None:
    frame = Ether(announcement(MAC, "10.5.1.2", vlan))
    assert (frame.src, frame.dst) == (MAC, "ff:ff:ff:ff:ff:ff")
    assert (frame[Dot1Q].vlan if vlan else 0) == vlan
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc) == (2, MAC, "10.5.1.2")
    assert (arp.hwdst, arp.pdst) == (MAC, "10.5.1.2")


@pytest.mark.parametrize("address", ["fd00:5:0:7::2", "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
def test_unsolicited_neighbour_advertisement(address: str) -> None:
    frame = Ether(announcement(MAC, address))
    assert (frame.src, frame.dst) == (MAC, "33:33:00:00:00:01")
    packet = frame[IPv6]
    assert (packet.src, packet.dst, packet.hlim) == (address, "ff02::1", 255)
    said = packet[ICMPv6ND_NA]
    assert (said.R, said.S, said.O, said.tgt) == (0, 0, 1, address)
    assert packet[ICMPv6NDOptDstLLAddr].lladdr == MAC
    checksum = said.cksum
    del said.cksum
    assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == checksum
