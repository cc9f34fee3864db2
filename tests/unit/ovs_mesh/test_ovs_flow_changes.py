# SPDX-License-Identifier: Apache-2.0
"""Flow changes, and the flow updates by which the switch tells of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ovs_mesh.clients.openflow import FlowChange, difference, read_difference
from ovs_mesh.flow_updates import expected_updates
from ovs_mesh.pipeline import COOKIE
from ovs_mesh.watch import Watch


def test_only_our_flows_are_changed_and_a_replaced_one_is_no_deletion() -> None:
    mine = f"cookie={COOKIE:#x}"
    difference = "\n".join(
        [
            f"-table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:3",
            f"+table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:2",
            f"+table=50 priority=100,ip,nw_dst=10.5.9.0/24 {mine} actions=output:2",
            "+table=50 priority=7,ip actions=drop",
            "+table=50 priority=8,ip cookie=0x1 actions=drop",
        ]
    )
    assert [(c.verb, c.flow) for c in read_difference(difference)] == [
        ("delete_strict", f"{mine}/-1,table=50 priority=100,ip,nw_dst=10.5.9.0/24"),
        ("add", f"table=50 priority=100,ip,nw_dst=10.5.2.0/24 {mine} actions=output:3"),
    ]


def test_difference_to_what_was_applied_is_one_change_per_flow() -> None:
    mine = "cookie=0xf1a73e5400000001"
    stays = f"{mine},table=0,priority=0 actions=drop"
    before = {stays, f"{mine},table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=output:2"}
    wanted = {stays, f"{mine},table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=output:3"}
    (change,) = difference(before, wanted)
    assert (change.verb, change.replaces, change.place) == ("add", True, (50, 100))
    added, gone = difference(set(), wanted), difference(wanted, {stays})
    assert [(c.verb, c.replaces, c.place) for c in added] == [
        ("add", False, (0, 0)),
        ("add", False, (50, 100)),
    ]
    assert [(c.verb, c.place) for c in gone] == [("delete_strict", (50, 100))]


def test_flow_update_too_many_is_another_programs() -> None:
    ours = expected_updates(
        [FlowChange("add", "table=50,priority=100,ip,nw_dst=10.5.2.0/24 actions=drop")],
        added_ports=["192.168.64.12"],
        deleted_ports=[],
    )
    assert ours == {(0, 50, 100): 1, (0, "192.168.64.12"): 1}
    watch = Watch(Path("/nonexistent"), "obr0", lambda: None)
    try:
        with watch.expecting(ours):
            assert not watch._unexpected(Counter(ours))
            assert watch._unexpected(Counter({(0, 50, 100): 1}))
        assert watch._unexpected(Counter({(1, 50, 100): 1}))
    finally:
        watch.close()
