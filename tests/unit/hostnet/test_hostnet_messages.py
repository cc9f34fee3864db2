# SPDX-License-Identifier: Apache-2.0
"""Netlink messages against bytes written out by hand from linux/rtnetlink.h, little endian."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Mapping

import pytest

from hostnet.kinds.fdb import FdbEntry, parse_fdb, put_fdb
from hostnet.kinds.link_messages import parse_link, settings
from hostnet.kinds.message_filter import packet_filter
from hostnet.kinds.neighbour import RTM_NEWNEIGH, Neighbour, parse_neighbour, put_neighbours
from hostnet.kinds.nexthop import Nexthop, parse_nexthop, put_nexthops
from hostnet.kinds.route_messages import Route, parse_route, put_routes
from hostnet.netlink import attributes as netlink_attributes
from hostnet.netlink import socket as netlink
from hostnet.netlink.address_messages import Address, put_addresses
from hostnet.netlink.buffers import HEADER, NLMSG_DONE, Part
from hostnet.netlink.table_reader import TableReader

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="bytes are of a little host")

INDEX, NAMES = {"flannel.1": 5}, {5: "flannel.1"}


def hexed(body: bytes) -> str:
    return body.hex(" ", 4)


def test_neighbour() -> None:
    entry = Neighbour("flannel.1", "10.5.64.0", "c6:d2:32:00:00:0a")
    (body,) = put_neighbours([entry], INDEX, 102).bodies
    assert hexed(body) == (
        "02000000 05000000 80000000 08000100 0a054000 0a000200 c6d23200 000a0000 05000c00 66000000"
    )
    assert parse_neighbour((body, 0, len(body)), NAMES) == (entry, 5)


def test_fdb_entry_is_permanent_noarp_and_the_devices_own() -> None:
    entry = FdbEntry("flannel.1", "c6:d2:32:00:00:0a", "192.168.64.3")
    (body,) = put_fdb([entry], INDEX).bodies
    assert hexed(body) == (
        "07000000 05000000 c0000200 0a000200 c6d23200 000a0000 08000100 c0a84003"
    )
    assert parse_fdb((body, 0, len(body)), NAMES) == (entry, 5)


@pytest.mark.parametrize(
    "route",
    [
        Route("10.5.64.0/24", "flannel.1", "10.5.64.0", onlink=True),
        Route("0.0.0.0/0", "flannel.1", "10.5.64.0", metric=7),
        Route("10.5.64.0/24", "flannel.1", scope=253, source="10.5.76.0", mtu=1400, advmss=1360),
        Route("fc00:0:0:3::/64", "flannel.1", "fc00:0:0:3::", onlink=True),
        Route("::/0", "flannel.1", "fe80::1", table=1000),
        Route("10.5.64.0/24", "flannel.1", "fe80::1"),
    ],
)
def test_route_is_read_as_it_was_written(route: Route) -> None:
    (body,) = put_routes([route], INDEX, 102, {}).bodies
    assert len(body) % 4 == 0
    assert parse_route((body, 0, len(body)), NAMES, {}) == (route, 5)


def test_route_by_nexthop_object_names_only_the_id() -> None:
    route = Route("10.5.64.0/24", "flannel.1", "10.5.64.0", onlink=True)
    hops = {route[1:4]: 102_000_001}
    (body,) = put_routes([route], INDEX, 102, hops).bodies
    assert hexed(body) == "02180000 fe660001 00000000 08000100 0a054000 08001e00 81651406"
    assert parse_route((body, 0, len(body)), {}, {102_000_001: route[1:4]}) == (route, 0)


@pytest.mark.parametrize(
    "hop", [Nexthop(9, "flannel.1", "10.5.64.0", True), Nexthop(8, "flannel.1", "fe80::1")]
)
def test_nexthop_is_read_as_it_was_written(hop: Nexthop) -> None:
    (body,) = put_nexthops([hop], INDEX, 102).bodies
    assert parse_nexthop((body, 0, len(body)), NAMES) == ((hop, 102), 5)


def test_ipv6_address_skips_duplicate_detection() -> None:
    (body,) = put_addresses([Address("flannel.1", "fc00::1/64")], INDEX, 102).bodies
    found = netlink_attributes.attributes(body, 8, len(body))
    assert netlink_attributes.u32(found[8]) & 0x02  # IFA_F_NODAD
    assert found[11] == bytes([102])


@pytest.mark.parametrize("address", ["10.5.64", "10.5.64.256", "fc00::g", ""])
def test_text_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises((OSError, ValueError)):
        put_neighbours([Neighbour("flannel.1", address, "02:00:00:00:00:01")], INDEX, 102)


def test_unknown_link_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        put_fdb([FdbEntry("nowhere", "02:00:00:00:00:01", "1.2.3.4")], INDEX)


def test_link_message_is_read() -> None:
    info = netlink_attributes.attr_nest(18, netlink_attributes.attr_text(1, "veth"))
    common = settings(name="eth0", mtu=1450, mac="02:00:00:00:00:01", alias="flatmesh", master=3)
    body = struct.pack("=BBHiII", 0, 0, 0, 7, 1, 0) + common + info
    link = parse_link((body, 0, len(body)))
    assert (link.name, link.index, link.kind, link.mtu) == ("eth0", 7, "veth", 1450)
    assert (link.mac, link.alias, link.master, link.up) == (
        "02:00:00:00:00:01",
        "flatmesh",
        3,
        True,
    )


def test_truncated_attribute_ends_the_walk_instead_of_looping() -> None:
    assert netlink_attributes.attributes(b"\x00\x00\x01\x00" + b"\0" * 8, 0, 12) == {}


def test_extended_ack_is_read_in_full_and_capped_form() -> None:
    text = netlink_attributes.attr_text(netlink.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    echoed = HEADER.pack(24, 24, 5, 1, 0)
    number = struct.pack("=i", -errno.ENETUNREACH)
    capped = number + echoed + text
    flags = netlink.NLM_F_ACK_TLVS
    error = netlink._error(capped, 0, len(capped), flags | netlink.NLM_F_CAPPED)
    assert (error.errno, error.message) == (errno.ENETUNREACH, "Nexthop has invalid gateway")
    full = number + echoed + b"12345678" + text
    assert netlink._error(full, 0, len(full), flags).message == "Nexthop has invalid gateway"
    error.operation = "ip route add"
    assert str(error) == "ip route add: Network is unreachable: Nexthop has invalid gateway"


def dumped(*bodies: bytes, done: bool = False) -> bytes:
    rows = [HEADER.pack(16 + len(b), RTM_NEWNEIGH, 2, 1, 0) + b for b in bodies]
    end = HEADER.pack(20, NLMSG_DONE, 2, 1, 0) + b"\0\0\0\0"
    return b"".join(rows) + (end if done else b"")


def neighbour_rows(count: int) -> tuple[list[Neighbour], list[bytes]]:
    entries = [
        Neighbour("flannel.1", f"10.5.{n}.0", f"02:00:00:00:00:{n:02x}") for n in range(count)
    ]
    return entries, put_neighbours(entries, INDEX, 102).bodies


def test_table_reader_parses_each_row_once_and_sees_every_change() -> None:
    parsed: list[int] = []

    def parse(part: Part, names: Mapping[int, str]) -> tuple[Neighbour | None, int]:
        parsed.append(part[1])
        return parse_neighbour(part, names)

    reader = TableReader(parse, 32)
    entries, rows = neighbour_rows(5)
    assert reader.read([dumped(*rows), dumped(done=True)], NAMES) == entries
    assert len(parsed) == 5
    aged = [row[:-8] + b"\x05\x00\x0c\x00\x07\0\0\0" for row in rows]  # behind the front part
    assert reader.read([dumped(*aged[:3]), dumped(*aged[3:], done=True)], NAMES) == entries
    assert len(parsed) == 5
    other = Neighbour("flannel.1", "10.5.3.0", "02:00:00:00:00:ff")
    rows[3] = put_neighbours([other], INDEX, 102).bodies[0]
    assert reader.read([dumped(*rows)], NAMES) == [*entries[:3], other, entries[4]]
    assert len(parsed) == 6
    assert reader.read([dumped(done=True)], NAMES) == []


def test_table_reader_walks_buffers_of_mixed_rows() -> None:
    entries, rows = neighbour_rows(3)
    six = Neighbour("flannel.1", "fc00::1", "02:00:00:00:00:06")
    long = put_neighbours([six], INDEX, 102).bodies
    reader = TableReader(parse_neighbour, 32)
    buffer = dumped(rows[0], *long, rows[1], rows[2], done=True)
    assert reader.read([buffer], NAMES) == [entries[0], six, *entries[1:]]


def test_table_reader_forgets_when_a_device_is_renamed() -> None:
    _, rows = neighbour_rows(2)
    reader = TableReader(parse_neighbour, 32)
    reader.read([dumped(*rows)], NAMES)
    assert {n.link for n in reader.read([dumped(*rows)], {5: "flannel.9"})} == {"flannel.9"}


def test_table_reader_skips_entries_that_are_not_permanent() -> None:
    entries, rows = neighbour_rows(2)
    stale = rows[0][:8] + b"\x04\x00" + rows[0][10:]  # NUD_STALE
    reader = TableReader(parse_neighbour, 32)
    for _ in range(2):
        assert reader.read([dumped(stale, rows[1])], NAMES) == [entries[1]]


def run_filter(program: list[tuple[int, int, int, int]], packet: bytes) -> int:
    """The instructions of classic BPF that we use (linux/filter.h)."""
    at = accumulator = 0
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(packet[k : k + 4], "big")
            case 0x28:
                accumulator = int.from_bytes(packet[k : k + 2], "big")
            case 0x30:
                accumulator = packet[k]
            case 0x15:
                at += jump_true if accumulator == k else jump_false
            case 0x45:
                at += jump_true if accumulator & k else jump_false
            case 0x06:
                return k


@pytest.mark.parametrize("ports", [[], [1234], [1234, 4000000001, 77]])
def test_filter_drops_our_own_changes_and_ageing_neighbours(ports: list[int]) -> None:
    program = packet_filter(ports)

    def kept(
        kind: int, port: int, state: int = 0, family: int = socket.AF_INET, flags: int = 0
    ) -> bool:
        body = struct.pack("=BBHiHBB", family, 0, 0, 5, state, flags, 0)
        return bool(run_filter(program, HEADER.pack(28, kind, 0, 0, port) + body))

    for port in ports:
        assert not kept(24, port)
    assert kept(24, 99)
    assert kept(24, 0)
    assert kept(RTM_NEWNEIGH, 0, 0x80)
    assert not kept(RTM_NEWNEIGH, 0, 0x02)
    assert kept(RTM_NEWNEIGH, 99, 0x02)
    assert kept(RTM_NEWNEIGH, 0, 0xC0, socket.AF_BRIDGE)
    assert kept(RTM_NEWNEIGH, 0, 0x02, socket.AF_BRIDGE, 0x02)
    assert not kept(RTM_NEWNEIGH, 0, 0x02, socket.AF_BRIDGE)
    assert kept(29, 0, 0xC0, socket.AF_BRIDGE)
    assert kept(29, 0, 0x20)
