# SPDX-License-Identifier: Apache-2.0
"""Cutting super-packets and putting them together again: the C functions themselves.

The one property that matters: whatever arrives, cutting what coalescing made of it gives back
the same packets, in the same order within each flow, byte for byte.
"""

from __future__ import annotations

import os
import random
import struct
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.flannel.udp_reference import (
    ACK,
    CWR,
    DF,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Headers,
    checksum,
    cut,
)

_udp = pytest.importorskip("flannel.udp._plane")
BYTES = random.Random(8285).randbytes(70000)
LONG = 100 if os.environ.get("FLATMESH_LONG") else 1
VNET = 10  # bytes of the vnet header


def payload(length: int, start: int = 0) -> bytes:
    return BYTES[start % 1000 : start % 1000 + length]


def join_and_cut(packets: list[bytes]) -> list[bytes]:
    return [one for whole in _udp.coalesce(packets) for one in _udp.segment(whole)]


V4 = Headers()
V6 = Headers(source="fd05:0:0:2::2", destination="fd05:0:0:1::2")
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


@settings(max_examples=25, deadline=None)
@given(
    base=st.sampled_from([V4, V6]),
    protocol=st.sampled_from([TCP, UDP]),
    length=st.integers(1, 65000),
    size=st.integers(40, 9000),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR, ACK | CWR | ECE | PSH]),
    options=st.sampled_from([b"", TIMESTAMPS]),
    sequence=st.sampled_from([0, 1000, 2**32 - 5000]),
    identification=st.sampled_from([0, 65530]),
)
def test_segments_are_what_a_sender_would_have_sent(
    base: Headers, protocol: int, length: int, size: int, **fields: Any
) -> None:
    headers = replace(base, protocol=protocol, **fields)
    whole = headers.super_packet(payload(length), size)
    wanted = cut(headers, payload(length), size)
    assert _udp.segment(whole) == wanted
    assert join_and_cut(wanted) == wanted


@settings(max_examples=30, deadline=None)
@given(
    base=st.sampled_from([V4, V6]),
    protocol=st.sampled_from([TCP, UDP]),
    length=st.integers(1, 60000),
    size=st.integers(1000, 9000),
)
def test_a_stream_becomes_few_super_packets(
    base: Headers, protocol: int, length: int, size: int
) -> None:
    headers = replace(base, protocol=protocol)
    packets = cut(headers, payload(length), size)
    whole = _udp.coalesce(packets)
    assert len(whole) == 1
    if len(packets) > 1:
        assert whole[0] == headers.super_packet(payload(length), size)
    else:
        assert whole[0] == bytes(VNET) + packets[0]


ODD = (
    {"flags": ACK | PSH},
    {"flags": ACK | FIN},
    {"flags": SYN},
    {"flags": ACK | RST},
    {"flags": ACK | URG},
    {"flags": ACK | CWR},
    {"flags": ACK | ECE},
    {"tos": 3},
    {"ttl": 63},
    {"window": 501},
    {"acknowledgement": 78},
    {"options": TIMESTAMPS},
    {"sequence": 999},
    {"identification": 5},
    {"fragment": 0},
    {"fragment": 0x2000},
    {"fragment": 5},
    {"flow_label": 9},
    {"protocol": 1},
)


def traffic(chance: random.Random) -> list[bytes]:
    """Packets of a few flows that mostly could be joined, with everything that forbids it."""
    flows = [
        replace(
            chance.choice([V4, V6]),
            protocol=chance.choice([TCP, TCP, UDP]),
            ports=(chance.randint(1, 2), 80),
            fragment=chance.choice([0, DF]),
        )
        for _ in range(chance.randint(1, 3))
    ]
    size = chance.choice([1, 8, 1400])
    packets = []
    for _ in range(chance.randint(1, 40)):
        which = chance.randrange(len(flows))
        headers = flows[which]
        length = chance.choice([size] * 12 + [0, max(1, size // 2), size + 1])
        odd = chance.choice(ODD) if chance.random() < 0.15 else {}
        packet = bytearray(replace(headers, **odd).packet(payload(length, headers.sequence)))
        if chance.random() < 0.05:
            packet[-1] ^= 0x55  # the checksum is wrong now, of header or payload
        packets.append(bytes(packet))
        flows[which] = replace(
            headers,
            sequence=headers.sequence + length,
            identification=headers.identification + 1,
        )
    return packets


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Packets of each pair of addresses, protocol and (where there are any) ports, in order.

    The id of a packet with DF means nothing and is left out (RFC 6864).
    """
    found = defaultdict(list)
    for packet in packets:
        if packet[0] >> 4 == 4:
            portless = struct.unpack(">H", packet[6:8])[0] & 0x3FFF or packet[9] not in (TCP, UDP)
            key = packet[9:10] + packet[12:20] + (b"" if portless else packet[20:24])
            if packet[6] & 0x40:
                packet = packet[:4] + packet[6:10] + packet[12:]  # noqa: PLW2901
        else:
            key = packet[6:7] + packet[8:44]
        found[key].append(packet)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_changed_lost_or_overtaken_within_a_flow(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(LONG * 15):
        packets = traffic(chance)
        assert by_flow(join_and_cut(packets)) == by_flow(packets), (seed, packets)


def test_packets_with_df_may_all_have_one_id() -> None:
    same = [
        replace(V4, sequence=1000 + n * 100, identification=0).packet(payload(100))
        for n in range(3)
    ]
    assert len(_udp.coalesce(same)) == 1
    may_be_cut = [
        replace(V4, sequence=1000 + n * 100, fragment=0).packet(payload(100)) for n in range(3)
    ]
    assert len(_udp.coalesce(may_be_cut)) == 3


def test_a_packet_with_a_wrong_checksum_is_not_joined() -> None:
    packets = cut(V4, payload(5000), 1000)
    broken = bytearray(packets[2])
    broken[100] ^= 1
    packets[2] = bytes(broken)
    whole = _udp.coalesce(packets)
    assert [len(_udp.segment(one)) for one in whole] == [2, 1, 2]
    assert whole[1] == bytes(VNET) + packets[2]
    first = bytearray(packets[0])
    first[100] ^= 1
    whole = _udp.coalesce([bytes(first), *packets[1:2]])
    assert whole == [bytes(VNET) + bytes(first), bytes(VNET) + packets[1]]


def test_udp_stays_as_it_is_where_the_kernel_takes_no_udp_super_packets() -> None:
    packets = cut(replace(V4, protocol=UDP), payload(3000), 1000)
    assert _udp.coalesce(packets, udp=False) == [bytes(VNET) + packet for packet in packets]


def test_a_super_packet_never_exceeds_the_ip_length_field() -> None:
    packets = cut(V4, payload(60000), 1000)
    more = cut(replace(V4, sequence=61000, identification=67), payload(10000), 1000)
    whole = _udp.coalesce(packets + more)
    assert len(whole) == 2
    assert all(len(one) <= VNET + 65535 for one in whole)
    tiny = cut(V4, payload(300), 1)
    assert [len(_udp.segment(one)) for one in _udp.coalesce(tiny)] == [128, 128, 44]


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("base", [V4, V6], ids=["ipv4", "ipv6"])
def test_a_partial_checksum_is_completed(base: Headers, protocol: int) -> None:
    headers = replace(base, protocol=protocol)
    whole = bytearray(headers.super_packet(payload(99), 99))
    whole[1] = 0  # not to be cut
    assert _udp.segment(bytes(whole)) == [headers.packet(payload(99))]


@pytest.mark.parametrize(
    "change",
    [
        {0: 0},  # no open checksum
        {1: 4},  # the vnet header says TCP over IPv6
        {1: 3},  # UDP fragmentation offload, which is not negotiated
        {4: 0, 5: 0},  # segments of no size
        {6: 19},  # transport header inside the network header
        {6: 0xFF, 7: 0xFF},
        {8: 17},  # the checksum elsewhere
        {10: 0x60},  # the packet is IPv6
        {10: 0x4F},  # options where the transport header is
        {12: 0xFF, 13: 0xFF},  # longer than it is
        {16: 0x20},  # a fragment
        {19: UDP},
        {42: 0x40},  # a TCP header of 16 bytes
        {42: 0xF0, 12: 0, 13: 60},  # a TCP header longer than the packet
    ],
)
def test_vnet_headers_that_do_not_fit_the_packet_are_refused(change: dict[int, int]) -> None:
    whole = bytearray(V4.super_packet(payload(3000), 1000))
    assert len(_udp.segment(bytes(whole))) == 3
    for place, value in change.items():
        whole[place] = value
    with pytest.raises(ValueError, match="no sound packet"):
        _udp.segment(bytes(whole))


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 9000),
    limit=st.integers(28, 2000),
    word=st.sampled_from([0, 0x2000, 0x2005, 0x0005]),
)
def test_fragments_make_up_the_packet(length: int, limit: int, word: int) -> None:
    packet = replace(V4, fragment=word).packet(payload(length))
    whole, at = b"", (word & 0x1FFF) * 8
    fragments = _udp.fragment(packet, limit)
    for number, one in enumerate(fragments):
        assert len(one) <= limit
        assert checksum(one[:20]) == 0
        assert one[:2] + one[4:6] + one[8:10] + one[12:20] == (
            packet[:2] + packet[4:6] + packet[8:10] + packet[12:20]
        )
        size, flags = struct.unpack(">H2xH", one[2:8])
        assert size == len(one)
        assert (flags & 0x1FFF) * 8 == at
        last = number == len(fragments) - 1
        assert bool(flags & 0x2000) == (not last or bool(word & 0x2000))
        whole += one[20:]
        at += len(one) - 20
    assert whole == packet[20:]


def test_df_and_ipv6_are_never_fragmented() -> None:
    for packet in (replace(V4, fragment=DF).packet(payload(3000)), V6.packet(payload(3000))):
        with pytest.raises(ValueError, match="may be fragmented"):
            _udp.fragment(packet, 1000)


def test_only_copied_options_are_in_later_fragments() -> None:
    plain = replace(V4, fragment=0).packet(payload(100))
    options = bytes([0x07, 4, 4, 0, 0x94, 4, 0, 0])  # record route (not copied), router alert
    head = bytearray(plain[:20] + options)
    head[0] = 0x47
    head[2:4] = (len(plain) + 8).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    first, second, *_ = _udp.fragment(bytes(head) + plain[20:], 76)
    assert first[20:28] == options
    assert second[20:28] == bytes([1, 1, 1, 1, 0x94, 4, 0, 0])
    assert checksum(second[:28]) == 0


# -- ICMP ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "mtu", "packet", "head"),
    [
        (_udp.NET_UNREACHABLE, 0, V4.packet(payload(2000)), bytes([3, 0])),
        (_udp.TIME_EXCEEDED, 0, V4.packet(payload(2000)), bytes([11, 0])),
        (_udp.TOO_BIG, 1400, V4.packet(payload(2000)), bytes([3, 4])),
        (_udp.NET_UNREACHABLE, 0, V6.packet(payload(2000)), bytes([1, 0])),
        (_udp.TIME_EXCEEDED, 0, V6.packet(payload(2000)), bytes([3, 0])),
        (_udp.TOO_BIG, 1400, V6.packet(payload(2000)), bytes([2, 0])),
    ],
)
def test_errors_quote_the_packet(error: int, mtu: int, packet: bytes, head: bytes) -> None:
    message = _udp.icmp_error(error, packet, mtu)
    assert message is not None
    assert message[:2] == head
    if packet[0] >> 4 == 4:
        assert checksum(message) == 0
        assert message[6:8] == mtu.to_bytes(2, "big")
        assert 20 + len(message) == 576
    else:
        assert message[4:8] == mtu.to_bytes(4, "big")
        assert 40 + len(message) == 1280
    assert packet.startswith(message[8:])


def ping(kind: int, base: Headers = V4) -> bytes:
    protocol = 1 if base.version == 4 else 58
    return replace(base, protocol=protocol).network(8) + bytes([kind, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("packet", "answered"),
    [
        (ping(8), True),
        (ping(3), False),
        (ping(11), False),
        (ping(5), False),
        (ping(128, V6), True),
        (ping(1, V6), False),
        (ping(137, V6), False),
        (replace(V4, fragment=5).packet(b"x"), False),
        (replace(V4, fragment=0x2000).packet(b"x" * 8), True),
        (replace(V4, source="0.0.0.0").packet(b"x"), False),
        (replace(V4, source="127.0.0.1").packet(b"x"), False),
        (replace(V4, source="224.0.0.1").packet(b"x"), False),
        (replace(V4, destination="224.0.0.1").packet(b"x"), False),
        (replace(V4, destination="255.255.255.255").packet(b"x"), False),
        (replace(V6, source="::").packet(b"x"), False),
        (replace(V6, source="fe80::1").packet(b"x"), False),
        (replace(V6, destination="ff02::1").packet(b"x"), False),
    ],
)
def test_errors_are_only_sent_where_the_rfcs_allow(packet: bytes, answered: bool) -> None:
    assert (_udp.icmp_error(_udp.TIME_EXCEEDED, packet) is not None) == answered


def test_an_mtu_below_the_minimum_is_never_reported() -> None:
    assert _udp.icmp_error(_udp.TOO_BIG, V6.packet(b"x"), 100)[4:8] == (1280).to_bytes(4, "big")
    assert _udp.icmp_error(_udp.TOO_BIG, V4.packet(b"x"), 10)[6:8] == (68).to_bytes(2, "big")


def test_headers_longer_than_there_is_room_for_are_refused() -> None:
    far = V6.network(600) + bytes(300) + V6.transport(0) + payload(280)
    vnet = struct.pack("=BBHHHH", 1, 4, 360, 100, 340, 16)
    with pytest.raises(ValueError, match="no sound packet"):
        _udp.segment(vnet + far)
