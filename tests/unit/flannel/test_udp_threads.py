# SPDX-License-Identifier: Apache-2.0
"""The worker threads with real UDP sockets on loopback, and a socket pair for a TUN device.

The other end of the pair reads what the data plane writes to pods, and writes what pods send.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flannel.udp.table import UdpPeer, UdpTable
from tests.unit.flannel.udp_reference import DF, UDP, Headers, checksum, cut

_udp = pytest.importorskip("flannel.udp._plane")
TIMEOUT = 10.0  # seconds
VNET = 10  # bytes of the vnet header
OWN, PEER, OTHER = "127.88.0.1", "127.88.0.2", "127.88.0.3"
TABLE = UdpTable(
    ("10.5.1.0/24", "fd05:0:0:1::/64"),
    (
        UdpPeer(("10.5.2.0/24", "fd05:0:0:2::/64"), PEER, None, 4),
        UdpPeer(("10.5.3.0/24",), OTHER, None, 4),
    ),
)
IN = Headers(source="10.5.2.2", destination="10.5.1.2", protocol=UDP)
OUT = Headers(source="10.5.1.2", destination="10.5.2.2", protocol=UDP)


@dataclass
class Plane:
    """A data plane between `pods` and `peers`."""

    plane: Any
    pods: socket.socket
    port: int
    peers: dict[str, socket.socket]

    def from_pod(self, packet: bytes, *, super_packet: bool = False) -> None:
        self.pods.send(packet if super_packet else bytes(VNET) + packet)

    def to_pod(self) -> bytes:
        return self.pods.recv(1 << 17)

    def from_peer(self, packet: bytes, peer: str = PEER) -> None:
        self.peers[peer].sendto(packet, (OWN, self.port))

    def to_peer(self, peer: str = PEER) -> bytes:
        return self.peers[peer].recv(1 << 17)

    def counted(self) -> dict[str, int]:
        return {name: value for name, value in self.plane.counters().items() if value}

    def wait_for(self, counter: str, value: int = 1) -> dict[str, int]:
        """Wait until a counter has a value: the packet has then been processed."""
        pause = threading.Event()
        for _ in range(int(TIMEOUT / 0.002)):
            counted = self.counted()
            if counted.get(counter, 0) >= value:
                return counted
            pause.wait(0.002)
        raise AssertionError(f"{counter} never came to {value}: {self.counted()}")


def udp_socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    sock.bind((address, port))
    return sock


@contextlib.contextmanager
def running(table: UdpTable = TABLE, *, split: bool = False, **options: Any) -> Iterator[Plane]:
    with contextlib.ExitStack() as stack:
        pods, tun = (stack.enter_context(s) for s in socket.socketpair(type=socket.SOCK_SEQPACKET))
        tun.setblocking(False)
        pods.settimeout(TIMEOUT)
        for end in (pods, tun):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        own = stack.enter_context(udp_socket(OWN, 0))
        port = own.getsockname()[1]
        own.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO
        peers = {a: stack.enter_context(udp_socket(a, port)) for a in (PEER, OTHER)}
        plane = _udp.DataPlane(
            [(tun.fileno(), own.fileno(), -1)], udp_segmentation=True, split=split, **options
        )
        plane.set_peers(*table.pack(port))
        plane.start()
        stack.callback(plane.stop)
        yield Plane(plane, pods, port, peers)


@pytest.fixture(params=[False, True], ids=["one thread", "a thread a direction"])
def plane(request: pytest.FixtureRequest) -> Iterator[Plane]:
    with running(split=request.param) as made:
        yield made


def test_packets_pass_with_their_ttl_decremented(plane: Plane) -> None:
    plane.from_pod(OUT.packet(b"hello"))
    assert plane.to_peer() == replace(OUT, ttl=63).packet(b"hello")
    plane.from_peer(IN.packet(b"hello"))
    assert plane.to_pod() == bytes(VNET) + replace(IN, ttl=63).packet(b"hello")


def test_ipv6_packets_pass_likewise(plane: Plane) -> None:
    out = replace(OUT, source="fd05:0:0:1::2", destination="fd05:0:0:2::2")
    plane.from_pod(out.packet(b"hello"))
    assert plane.to_peer() == replace(out, ttl=63).packet(b"hello")
    back = replace(out, source=out.destination, destination=out.source)
    plane.from_peer(back.packet(b"hello"))
    assert plane.to_pod() == bytes(VNET) + replace(back, ttl=63).packet(b"hello")


def test_a_super_packet_arrives_as_its_segments(plane: Plane) -> None:
    headers = replace(OUT, protocol=6)
    content = os.urandom(60000)
    plane.from_pod(headers.super_packet(content, 1400), super_packet=True)
    wanted = cut(replace(headers, ttl=63), content, 1400)
    assert [plane.to_peer() for _ in wanted] == wanted
    assert plane.wait_for("tx_packets", len(wanted))["tx_datagrams"] <= 2


def test_segments_arrive_as_a_super_packet() -> None:
    content = os.urandom(40000)
    headers = replace(IN, protocol=6)
    with running() as plane:
        plane.plane.stop()  # so that all of them are there when it looks
        for packet in cut(headers, content, 1400):
            plane.from_peer(packet)
        plane.plane.start()
        assert plane.to_pod() == replace(headers, ttl=63).super_packet(content, 1400)


@pytest.mark.parametrize(
    ("packet", "peer", "reason"),
    [
        (IN.packet(b"x"), OTHER, "drop_rx_spoofed"),
        (replace(IN, source="10.5.1.9").packet(b"x"), PEER, "drop_rx_spoofed"),
        (replace(IN, source="10.5.9.9").packet(b"x"), PEER, "drop_rx_unknown_source"),
        (replace(IN, source="192.0.2.1").packet(b"x"), PEER, "drop_rx_unknown_source"),
        (replace(IN, destination="10.5.3.2").packet(b"x"), PEER, "drop_rx_not_ours"),
        (replace(IN, destination="192.0.2.1").packet(b"x"), PEER, "drop_rx_not_ours"),
        (replace(IN, destination="255.255.255.255").packet(b"x"), PEER, "drop_rx_not_ours"),
        (replace(IN, ttl=1).packet(b"x"), PEER, "drop_rx_ttl"),
        (replace(IN, ttl=0).packet(b"x"), PEER, "drop_rx_ttl"),
        (b"", PEER, None),
        (b"E", PEER, "drop_rx_malformed"),
        (b"not a packet of any kind", PEER, "drop_rx_malformed"),
        (IN.packet(b"x" * 9)[:30], PEER, "drop_rx_malformed"),
        (IN.packet(b"x")[:8] + b"\x41" + IN.packet(b"x")[9:], PEER, "drop_rx_malformed"),
    ],
)
def test_what_must_not_come_in_is_dropped_and_counted(
    packet: bytes, peer: str, reason: str | None
) -> None:
    with running() as plane:
        plane.from_peer(packet, peer)
        if reason is not None:
            plane.wait_for(reason)
        plane.from_peer(IN.packet(b"next"))
        assert plane.to_pod()[-4:] == b"next"
        drops = {name: n for name, n in plane.counted().items() if name.startswith("drop")}
        assert drops == ({reason: 1} if reason else {})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (replace(OUT, destination="10.5.9.9").packet(b"x"), "drop_tx_no_peer"),
        (replace(OUT, destination="10.5.1.9").packet(b"x"), "drop_tx_no_peer"),
        (replace(OUT, destination="224.0.0.5").packet(b"x"), "drop_tx_multicast"),
        (
            replace(OUT, source="fd05:0:0:1::2", destination="ff02::2").packet(b"x"),
            "drop_tx_multicast",
        ),
        (replace(OUT, ttl=1).packet(b"x"), "drop_tx_ttl"),
        (b"\x45\0\0\x10", "drop_tx_malformed"),
    ],
)
def test_what_must_not_go_out_is_dropped_and_counted(packet: bytes, reason: str) -> None:
    with running() as plane:
        plane.from_pod(packet)
        plane.wait_for(reason)
        plane.from_pod(OUT.packet(b"next"))
        assert plane.to_peer()[-4:] == b"next"


def test_too_large_a_packet_is_cut_where_it_may_be() -> None:
    with running(underlay_mtu=1028) as plane:
        plane.from_pod(replace(OUT, fragment=0).packet(b"x" * 2500))
        first, second, third = (plane.to_peer() for _ in range(3))
        assert [len(one) for one in (first, second, third)] == [996, 996, 576]
        assert checksum(second[:20]) == 0
        assert (second[8], struct.unpack(">H", second[6:8])[0]) == (63, 0x2000 | 976 // 8)
        plane.from_pod(replace(OUT, fragment=DF).packet(b"x" * 2500))
        counted = plane.wait_for("icmp_withheld")  # there is no socket of that family
        assert (counted["tx_fragments"], counted["drop_tx_too_big"]) == (3, 1)


def test_a_super_packet_whose_segments_do_not_pass_is_refused() -> None:
    with running(underlay_mtu=1028) as plane:
        headers = replace(OUT, protocol=6)
        plane.from_pod(headers.super_packet(b"x" * 3000, 1400), super_packet=True)
        plane.wait_for("drop_tx_too_big")
        plane.from_pod(headers.super_packet(b"x" * 1900, 960), super_packet=True)
        assert [len(plane.to_peer()) for _ in range(2)] == [1000, 980]
        may_be_cut = replace(headers, fragment=0)
        plane.from_pod(may_be_cut.super_packet(b"x" * 2000, 1400), super_packet=True)
        assert [len(plane.to_peer()) for _ in range(3)] == [996, 464, 640]


def test_the_table_is_swapped_while_packets_flow() -> None:
    moved = UdpTable(
        TABLE.own,
        (UdpPeer(("10.5.2.0/24",), OTHER, None, 4), UdpPeer(("10.5.3.0/24",), PEER, None, 4)),
    )
    with running() as plane:
        stop = threading.Event()

        def swap() -> None:
            while not stop.wait(0.001):  # so that the other threads run too
                for table in (moved, TABLE):
                    plane.plane.set_peers(*table.pack(plane.port))

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            for number in range(500):
                plane.from_pod(OUT.packet(number.to_bytes(4, "big")))
                ready, _, _ = select.select(plane.peers.values(), [], [], TIMEOUT)
                assert ready
                assert ready[0].recv(2048)[-4:] == number.to_bytes(4, "big")
        finally:
            stop.set()
            swapper.join()
        plane.plane.set_peers(*moved.pack(plane.port))
        plane.from_pod(OUT.packet(b"last"))
        assert plane.to_peer(OTHER)[-4:] == b"last"


def test_many_small_packets_share_a_message() -> None:
    with running() as plane:
        plane.plane.stop()
        packets = [OUT.packet(bytes([n, 0])) for n in range(50)]
        for packet in packets:
            plane.from_pod(packet)
        plane.plane.start()
        assert [plane.to_peer()[-2] for _ in packets] == list(range(50))
        assert plane.wait_for("tx_packets", 50)["tx_datagrams"] == 1


def test_one_packet_a_call_works_like_flanneld() -> None:
    with running(single=True) as plane:
        plane.from_pod(OUT.packet(b"hello"), super_packet=True)  # no vnet header in this mode
        assert plane.to_peer() == replace(OUT, ttl=63).packet(b"hello")
        plane.from_peer(IN.packet(b"hello"))
        assert plane.to_pod() == replace(IN, ttl=63).packet(b"hello")


def test_threads_end_and_start_again() -> None:
    with running() as plane:
        for _ in range(20):
            plane.plane.start()  # those that run stay
            plane.plane.stop()
            plane.plane.stop()
            plane.plane.start()
        plane.from_pod(OUT.packet(b"hello"))
        assert plane.to_peer()[-5:] == b"hello"


def test_a_device_that_goes_away_is_reported() -> None:
    with running() as plane:
        plane.pods.close()
        assert select.select([plane.plane], [], [], TIMEOUT)[0]


@pytest.mark.parametrize("queues", [[], [(1, 2)], [(1, 2, 3)] * 65, [[1, 2, 3]], 3])
def test_nonsense_is_refused(queues: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _udp.DataPlane(queues)
