# SPDX-License-Identifier: Apache-2.0
"""What a pod may send, from its record alone; and the comparison with the kernel's elements."""

from __future__ import annotations

from typing import Any

from cni.attachment.store import AttachmentRecord
from cni.config.call import AttachmentKey
from cni.pod.guard_reconcile import changes
from cni.pod.naming import host_interface_name
from cni.pod.source_guard import BODY, GuardedPod, elements, recorded
from hostnet.address_mac import packed_link_local

KEY = AttachmentKey("pods", "c1", "eth0")
NAME = host_interface_name(KEY)
MAC = "0a:58:0a:05:01:02"
GUARD = {"bridge": "kbr0", "check": True, "trunk": False, "mac": ""}


def record(*ips: str, **metadata: Any) -> AttachmentRecord:
    return AttachmentRecord(KEY, True, "/run/netns/x", "", ips, {"plugin": "flatmesh", **metadata})


def sets_of(pod: GuardedPod) -> set[str]:
    return {element.set.name for element in elements(pod)}


def test_a_record_says_what_the_pod_may_send() -> None:
    by_address = record("10.5.1.2", "fd05::2", sourceGuard=GUARD)
    assert recorded(by_address) == GuardedPod(NAME, MAC, ("10.5.1.2", "fd05::2"))
    told = {"mac": "02:00:00:00:00:07", "ips": ["10.5.1.9/24"]}
    assert recorded(record("10.5.1.2", sourceGuard=GUARD, **told)) == GuardedPod(
        NAME, "02:00:00:00:00:07", ("10.5.1.9",)
    )
    asked = {**GUARD, "mac": "02:00:00:00:00:08", "check": False, "trunk": True}
    assert recorded(record("10.5.1.2", sourceGuard=asked)) == GuardedPod(
        NAME, "02:00:00:00:00:08", ("10.5.1.2",), check=False, trunk=True
    )


def test_records_that_say_nothing_guard_nothing() -> None:
    assert recorded(record("10.5.1.2")) is None  # of an earlier version
    assert recorded(record(sourceGuard=GUARD)) is None  # a delegated plugin has not answered yet
    on_switch = {**GUARD, "bridge": ""}
    assert recorded(record("10.5.1.2", sourceGuard=on_switch)) is None
    assert recorded(record("10.5.1.2", sourceGuard="text")) is None


def test_elements() -> None:
    pod = GuardedPod(NAME, MAC, ("10.5.1.2",))
    assert sets_of(pod) == {"ports", "macs", "targets6", "senders4", "senders6"}
    assert sets_of(pod._replace(ips=())) == {"ports", "macs", "macs_only"}
    assert sets_of(pod._replace(check=False)) == {"ports", "unchecked"}
    assert sets_of(pod._replace(trunk=True)) - sets_of(pod) == {"trunks"}
    assert (
        packed_link_local(bytes.fromhex("0a580a050102")).hex() == "fe8000000000000008580afffe050102"
    )


def test_changes() -> None:
    wanted = set(elements(GuardedPod(NAME, MAC, ("10.5.1.2",))))
    one = record("10.5.1.2", sourceGuard=GUARD)
    nothing = changes(BODY, BODY, wanted, [one], [NAME])
    assert (nothing.table, nothing.gone, nothing.new) == (False, [], [])
    assert set(changes(None, BODY, (), [one], [NAME]).new) == wanted
    assert changes(None, BODY, (), [one], [NAME]).table
    assert changes(None, BODY, (), [], []).lines() == []  # no pod: the table is not made
    forged = set(elements(GuardedPod(NAME, MAC, ("10.5.1.3",)))) - wanted
    assert set(changes(BODY, BODY, wanted | forged, [one], [NAME]).gone) == forged
    # a pod whose record is elsewhere keeps its elements as long as its interface is there
    assert changes(BODY, BODY, wanted, [], [NAME]).gone == []
    assert set(changes(BODY, BODY, wanted, [], []).gone) == wanted
    assert changes(BODY.replace("drop", "accept"), BODY, wanted, [one], [NAME]).table
