"""OVSDB rows: desired, actual, and the changes between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from ovs_mesh.rows import ActualBridge, BridgeConflictError, BridgeRow, PortRow, row_changes
from tests.unit.ovs_mesh.mesh_examples import config, wanted_rows


def found(rows: Sequence[BridgeRow], foreign: Iterable[str] = ()) -> dict[str, ActualBridge]:
    return {
        row.name: ActualBridge(row, ours=True, foreign_ports=frozenset(foreign)) for row in rows
    }


def test_nothing_to_do_when_rows_are_as_wanted() -> None:
    rows = wanted_rows(config(Mesh="static"), 2, 3)
    assert row_changes(rows, found(rows)) == []


def test_new_peer_is_one_port() -> None:
    ovs = config(Mesh="static", Tunnel="gre")
    changes = row_changes(wanted_rows(ovs, 2, 3), found(wanted_rows(ovs, 2)))
    assert [change.line() for change in changes] == [
        (
            "ovs-vsctl add-port obr0 192.168.64.13 -- set interface 192.168.64.13 "
            "type=gre options:key=1 options:remote_ip=192.168.64.13"
        )
    ]


def test_other_tunnel_is_set_in_place() -> None:
    before, after = config(Mesh="static", Tunnel="gre"), config(Mesh="static")
    changes = row_changes(wanted_rows(after, 2), found(wanted_rows(before, 2)))
    assert [change.verb for change in changes] == ["set-port"]


def test_foreign_bridges_and_ports_stay() -> None:
    rows = wanted_rows(config(), 2)
    there = found(rows, foreign=["eth1"])
    there["br-ex"] = ActualBridge(BridgeRow("br-ex", "system"), ours=False)
    assert row_changes(rows, there) == []
    assert [c.line() for c in row_changes([], there)] == [
        "ovs-vsctl del-br obr0",
        "ovs-vsctl del-br obr0-phy",
    ]


def test_name_that_is_taken_is_refused() -> None:
    rows = wanted_rows(config(), 2)
    with pytest.raises(BridgeConflictError, match=r"bridge obr0 .* not ours"):
        row_changes(rows, {"obr0": ActualBridge(BridgeRow("obr0", "system"), ours=False)})
    with pytest.raises(BridgeConflictError, match=r"port mesh-vxlan .* not ours"):
        row_changes(
            rows,
            {
                row.name: ActualBridge(
                    BridgeRow(row.name, row.datapath, row.other_config, (PortRow("x"),)),
                    ours=True,
                    foreign_ports=frozenset(["mesh-vxlan", "phy-ovs"] if row == rows[1] else []),
                )
                for row in rows
            },
        )


def test_operators_own_settings_of_our_bridge_stay() -> None:
    rows = wanted_rows(config(), 2)
    there = {
        row.name: ActualBridge(
            BridgeRow(
                row.name, row.datapath, {**row.other_config, "mac-table-size": "9"}, row.ports
            ),
            ours=True,
        )
        for row in rows
    }
    assert row_changes(rows, there) == []
