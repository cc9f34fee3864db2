# SPDX-License-Identifier: Apache-2.0
"""OVSDB rows: desired, actual, and the changes between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from ovs_mesh.rows import ActualBridge, BridgeConflictError, BridgeRow, PortRow, row_changes
from ovs_mesh.userspace import TunnelRoute, read_routes
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
            "ovs-vsctl add-port obr0 192.168.64.13 -- set port 192.168.64.13 "
            "external_ids:flatmesh=port -- set interface 192.168.64.13 "
            "type=gre options:key=1 options:remote_ip=192.168.64.13 external_ids:flatmesh=tunnel "
            "external_ids:peer=192.168.64.13 external_ids:subnet='\"10.5.3.0/24\"'"
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


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"fail_mode": "standalone"}, "fail_mode=secure"),
        ({"spanning_tree": "stp"}, "stp_enable=false"),
    ],
)
def test_settings_that_another_program_has_changed_are_set_again(
    change: dict[str, str], line: str
) -> None:
    rows = wanted_rows(config(), 2)
    there = found([replace(row, **change) for row in rows])  # type: ignore[arg-type]
    changes = row_changes(rows, there)
    assert [one.verb for one in changes] == ["set-br", "set-br"]
    assert all(line in one.line() for one in changes)


def test_a_port_that_was_confined_to_a_vlan_is_set_again() -> None:
    rows = wanted_rows(config(), 2)
    there = [replace(row, ports=tuple(replace(p, in_vlan=True) for p in row.ports)) for row in rows]
    assert {one.verb for one in row_changes(rows, found(there))} == {"set-port"}


def test_routes_with_a_source_that_this_host_no_longer_has_are_wrong() -> None:
    shown = """Route Table:
User: 192.168.64.0/24 dev obr0-phy SRC 192.168.64.11
User: 0.0.0.0/0 dev obr0-phy GW 192.168.64.1 SRC 192.168.64.99
Cached: 127.0.0.1/32 dev lo SRC 127.0.0.1 local
"""
    right, wrong = read_routes(shown, {"192.168.64.99"})
    assert right == {TunnelRoute("0.0.0.0/0", "192.168.64.1")}
    assert wrong == {TunnelRoute("192.168.64.0/24")}
