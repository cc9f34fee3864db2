# SPDX-License-Identifier: Apache-2.0
"""Sets and maps of nftables by packed messages, in real namespaces, read back by nft itself."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from hostnet.netlink.socket import NetlinkError
from hostnet.nft import datatypes
from hostnet.nft.sets import (
    NftElement,
    NftSet,
    SetSocket,
    add_sets,
    change_elements,
    delete_sets,
)

PODS = NftSet("inet", "flatmesh", "pods", ("ipv4_addr",), comment="flatmesh")
PODS6 = NftSet("inet", "flatmesh", "pods6", ("ipv6_addr", "ether_addr", "ifname"))
ENDPOINTS = NftSet(
    "inet",
    "flatmesh",
    "endpoints",
    ("ipv4_addr", "inet_proto", "inet_service"),
    ("ipv4_addr", "inet_service"),
)
MARKS = NftSet("inet", "flatmesh", "marks", ("ipv6_addr",), ("mark",))


def nft(netns: str, *words: str) -> str:
    command = ["ip", "netns", "exec", netns, "nft", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def listed(netns: str, kind: str, one: NftSet) -> list[Any]:
    """The elements as nft itself reads them."""
    document = json.loads(nft(netns, "-j", "list", kind, *one.key))
    (found,) = (entry[kind] for entry in document["nftables"] if kind in entry)
    elements: list[Any] = found.get("elem", [])
    return elements


@pytest.fixture
def sets(netns: str) -> Iterator[SetSocket]:
    nft(netns, "add table inet flatmesh")
    with SetSocket(netns) as opened:
        yield opened


def pod(number: int) -> NftElement:
    return NftElement(PODS, struct.pack(">I", 0x0A050000 + number))


def endpoint(number: int, port: int = 8080) -> NftElement:
    return NftElement(
        ENDPOINTS,
        datatypes.pack(
            ENDPOINTS.types, struct.pack(">I", 0x0A000000 + number), b"\x06", b"\x00\x50"
        ),
        datatypes.pack(
            ENDPOINTS.data, struct.pack(">I", 0x0A050000 + number), struct.pack(">H", port)
        ),
    )


def test_sets_are_made_listed_and_deleted(sets: SetSocket, netns: str) -> None:
    wanted = {PODS, PODS6, ENDPOINTS, MARKS}
    sets.apply(add_sets(wanted))
    assert sets.sets("inet", "flatmesh") == wanted
    listing = nft(netns, "list", "table", "inet", "flatmesh")
    assert 'comment "flatmesh"' in listing
    assert "type ipv6_addr . ether_addr . ifname" in listing
    sets.apply(delete_sets([PODS6]))
    assert sets.sets("inet", "flatmesh") == wanted - {PODS6}


def test_nft_reads_what_was_packed(sets: SetSocket, netns: str) -> None:
    sets.apply(add_sets([PODS6, ENDPOINTS, MARKS]))
    mac, device = bytes.fromhex("0a580a050102"), b"veth1".ljust(16, b"\0")
    address = bytes.fromhex("fd05" + "00" * 13 + "02")
    sets.apply(
        list(
            change_elements(
                (),
                [
                    NftElement(PODS6, datatypes.pack(PODS6.types, address, mac, device)),
                    endpoint(1),
                    NftElement(MARKS, address, struct.pack("=I", 0x66)),
                ],
            )
        )
    )
    assert listed(netns, "set", PODS6) == [{"concat": ["fd05::2", "0a:58:0a:05:01:02", "veth1"]}]
    assert listed(netns, "map", ENDPOINTS) == [
        [{"concat": ["10.0.0.1", "tcp", 80]}, {"concat": ["10.5.0.1", 8080]}]
    ]
    assert listed(netns, "map", MARKS) == [["fd05::2", 0x66]]


def test_elements_read_back_are_those_put_in(sets: SetSocket) -> None:
    sets.apply(add_sets([PODS, ENDPOINTS]))
    pods = {pod(number) for number in range(5000)}
    endpoints = {endpoint(number) for number in range(5000)}
    sets.apply(list(change_elements((), pods | endpoints)))
    assert sets.elements(PODS) == pods
    assert sets.elements(ENDPOINTS) == endpoints


def test_a_dump_while_the_set_grows_misses_nothing(sets: SetSocket) -> None:
    sets.apply(add_sets([PODS]))
    pods = [pod(number) for number in range(60_000)]
    sets.apply(list(change_elements((), pods)))
    assert len(sets.elements(PODS)) == len(pods)  # the kernel moves them to a larger table now


def test_data_is_changed_in_one_transaction(sets: SetSocket, netns: str) -> None:
    sets.apply(add_sets([ENDPOINTS]))
    sets.apply(list(change_elements((), [endpoint(1), endpoint(2)])))
    sets.apply(list(change_elements([endpoint(1)], [endpoint(1, port=9090)])))
    assert sets.elements(ENDPOINTS) == {endpoint(1, port=9090), endpoint(2)}
    assert len(listed(netns, "map", ENDPOINTS)) == 2


def test_a_refused_transaction_leaves_nothing_half_done(sets: SetSocket) -> None:
    sets.apply(add_sets([PODS, ENDPOINTS]))
    sets.apply(list(change_elements((), [pod(1), endpoint(1)])))
    with pytest.raises(NetlinkError) as missing:
        sets.apply(list(change_elements([pod(1), pod(2)], [pod(3)])))
    assert missing.value.errno == errno.ENOENT
    assert sets.elements(PODS) == {pod(1)}
    with pytest.raises(NetlinkError) as other_data:
        sets.apply(list(change_elements((), [endpoint(2), endpoint(1, port=9090)])))
    assert other_data.value.errno == errno.EEXIST
    assert sets.elements(ENDPOINTS) == {endpoint(1)}
    sets.apply(list(change_elements((), [endpoint(2)])))  # the socket has no unread answers left
    assert sets.elements(ENDPOINTS) == {endpoint(1), endpoint(2)}


def test_an_element_that_is_there_already_is_no_error(sets: SetSocket) -> None:
    sets.apply(add_sets([ENDPOINTS]))
    for _ in range(2):
        sets.apply(list(change_elements((), [endpoint(1)])))
    assert sets.elements(ENDPOINTS) == {endpoint(1)}


def test_a_missing_table_holds_nothing_and_is_made_with_its_first_set(netns: str) -> None:
    with SetSocket(netns) as sets:
        assert sets.sets("inet", "flatmesh") == frozenset()
        assert sets.elements(PODS) == frozenset()
        sets.apply(add_sets([PODS]))
        assert sets.sets("inet", "flatmesh") == {PODS}


def test_elements_with_a_timeout_of_somebody_else_are_read_too(sets: SetSocket, netns: str) -> None:
    nft(netns, "add set inet flatmesh pods { type ipv4_addr ; flags timeout ; }")
    nft(netns, "add element inet flatmesh pods { 10.5.0.1 timeout 1h, 10.5.0.2 }")
    assert sets.elements(PODS) == {pod(1), pod(2)}


def test_lines_are_what_nft_takes(sets: SetSocket, netns: str) -> None:
    for line in (ENDPOINTS.line(), endpoint(1).line(), MARKS.line()):
        nft(netns, line.removeprefix("nft "))
    assert sets.elements(ENDPOINTS) == {endpoint(1)}
    nft(netns, endpoint(1).line("delete").removeprefix("nft "))
    assert sets.elements(ENDPOINTS) == frozenset()
