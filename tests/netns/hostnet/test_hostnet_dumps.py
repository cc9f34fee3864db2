# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables are read whole, however long they are and whoever changes them."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route, dump_routes
from hostnet.netlink.buffers import HEADER
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.state import HostState, merge
from tests.netns.hostnet.vxlan_host import BASE, WANTED, peer, settled


def test_a_dump_that_a_change_interrupted_is_repeated(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = NetlinkSocket._dump
    interruptions = iter([True, True])

    def interrupted(
        self: NetlinkSocket, kind: int, body: bytes, operation: str
    ) -> list[bytes] | None:
        found = real(self, kind, body, operation)
        return None if next(interruptions, False) else found

    with Kernel(host) as kernel:
        reconcile(WANTED, kernel)
        monkeypatch.setattr(NetlinkSocket, "_dump", interrupted)
        settled(kernel)
        monkeypatch.setattr(NetlinkSocket, "_dump", lambda *_: None)
        with pytest.raises(NetlinkError, match="kept changing"):
            plan_full(WANTED, kernel)


def test_a_dump_left_half_read_does_not_block_the_next(host: str) -> None:
    many = merge([BASE, *(peer(n) for n in range(1000))])
    with Kernel(host) as kernel:
        reconcile(many, kernel)
        kind, flags, body = dump_routes(socket.AF_INET)
        kernel.socket._sequence += 1
        header = HEADER.pack(16 + len(body), kind, flags | 0x301, kernel.socket._sequence, 0)
        kernel.socket._send(header + body)
        kernel.socket._receive()
        settled(kernel, many)


def test_no_entry_is_ever_missed_while_others_come_and_go(host: str) -> None:
    stable = merge([BASE, *(peer(n) for n in range(300))])
    moving = merge([peer(n) for n in range(1000, 1100)])
    stop = threading.Event()

    def churn() -> None:
        with Kernel(host) as other:
            while not stop.is_set():
                reconcile(moving, other, delta_of=HostState())
                reconcile(HostState(), other, delta_of=moving)

    with Kernel(host) as kernel:
        reconcile(stable, kernel)
        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(30):
                with contextlib.suppress(
                    NetlinkError
                ):  # every dump was interrupted: an error says so
                    found = kernel.dump(stable)
                    assert not stable.of(Route) - found.of(Route)
                    assert not stable.of(Neighbour) - found.of(Neighbour)
                    assert not stable.of(FdbEntry) - found.of(FdbEntry)
        finally:
            stop.set()
            thread.join()


def test_five_thousand_peers_are_added_and_removed(host: str) -> None:
    many = merge([BASE, *(peer(n) for n in range(5000))])
    with Kernel(host) as kernel:
        assert reconcile(many, kernel).failures == []
        assert reconcile(many, kernel).changes == 0
        # the first dump parses every row, later ones only what changed
        assert reconcile(many, kernel).changes == 0
        renamed = many.replacing(Route, many.of(Route) - peer(17).of(Route))
        assert reconcile(renamed, kernel).changes == 4
        assert reconcile(HostState(), kernel).failures == []
        assert plan_full(HostState(), kernel).lines() == []
