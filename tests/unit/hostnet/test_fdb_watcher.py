# SPDX-License-Identifier: Apache-2.0
"""Messages about forwarding entries, as Linux 5.10 sent them (`bridge monitor fdb`)."""

from __future__ import annotations

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.fdb import FdbEntry, FdbWatcher
from hostnet.kinds.neighbour import RTM_DELNEIGH, RTM_NEWNEIGH
from hostnet.kinds.watcher import WatchView
from hostnet.ownership import MARK

ENTRY = FdbEntry("flannel.1", "c6:d2:33:00:00:02", "192.168.65.2")
FROM_DRIVER = bytes.fromhex(
    "0700000006000000c00002010a000200c6d233000002000008000100c0a84102"
    "1400030000000000000000000000000000000000"
)
FROM_RTNETLINK = bytes.fromhex("0700000006000000c00002000a000200c6d2330000020000")
"""Before 6.14 rtnetlink tells of each entry once more, after the device's driver."""


def reason(message: int, body: bytes, **view: frozenset[object]) -> str | None:
    links = {6: ActualLink("flannel.1", 6, "vxlan")}
    told = WatchView(MARK, links, **view)  # type: ignore[arg-type]
    return FdbWatcher().reason(message, (body, 0, len(body)), told)


def test_the_second_message_on_an_entry_is_no_change() -> None:
    assert reason(RTM_NEWNEIGH, FROM_DRIVER) == "a forwarding entry of flannel.1 was set"
    assert reason(RTM_NEWNEIGH, FROM_DRIVER, written=frozenset([ENTRY])) is None
    assert reason(RTM_NEWNEIGH, FROM_RTNETLINK, written=frozenset([ENTRY])) is None
    assert reason(RTM_DELNEIGH, FROM_DRIVER) == "a forwarding entry of flannel.1 was deleted"
    assert reason(RTM_DELNEIGH, FROM_RTNETLINK) is None
