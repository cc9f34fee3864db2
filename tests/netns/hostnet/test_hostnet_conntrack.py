# SPDX-License-Identifier: Apache-2.0
"""Tracked connections: the kernel lists those to one destination, and no others."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from hostnet.conntrack.entries import Destination, connections, delete
from hostnet.netns import run_in
from lab.processes import NETNS_DIR

TRACKED = (
    "table inet tracked { chain output { type filter hook output priority 0; ct state new; }; }"
)
ADDRESSES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
PORTS = 7001, 7002


@pytest.fixture
def tracked(netns: str) -> Iterator[str]:
    """A namespace with one connection of each family to each port."""
    load = ["ip", "netns", "exec", netns, "nft", "-f", "-"]
    subprocess.run(load, input=TRACKED, text=True, check=True)
    with contextlib.ExitStack() as stack:
        for family, address in ADDRESSES.items():
            for port in PORTS:

                def connect(family: int = family, address: str = address, port: int = port) -> None:
                    server = stack.enter_context(
                        socket.create_server((address, port), family=family)
                    )
                    client = stack.enter_context(socket.socket(family))
                    client.connect((address, port))
                    stack.enter_context(server.accept()[0])

                run_in(NETNS_DIR / netns, connect)
        yield netns


def test_the_kernel_lists_those_to_one_destination(tracked: str) -> None:
    where = NETNS_DIR / tracked
    assert len(connections(where)) == 4
    for family, address in ADDRESSES.items():
        packed = socket.inet_pton(family, address)
        for to in (packed, b""):
            (found,) = connections(where, [Destination(family, 6, to, 7001)])
            assert (found.original.destination, found.original.destination_port) == (packed, 7001)
        assert connections(where, [Destination(family, 17, packed, 7001)]) == []
    both = [Destination(f, 6, b"", p) for f in ADDRESSES for p in (*PORTS, PORTS[0])]
    assert len(connections(where, both)) == 4  # one is asked for twice
    assert delete(connections(where, both[:1]), where) == []
    assert len(connections(where)) == 3
