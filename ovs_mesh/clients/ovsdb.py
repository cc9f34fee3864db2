# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch's database, through the IDL of the `ovs` package.

A connection keeps a replica of the rows it watches. `actual` reads it, `apply` makes all
changes in one transaction and waits until ovs-vswitchd has applied them (cur_cfg), so that
ports have their numbers when it returns. No call takes longer than twice OVSDB_TIMEOUT. After
an error the connection is of no use: close it and make another.

Sources: RFC 7047; ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ovs.db.idl
import ovs.poller

from ovs_mesh.clients.jsonrpc import RefusedError, request, silence_package_log
from ovs_mesh.errors import OvsError
from ovs_mesh.rows import (
    EDGE,
    MARK,
    VLAN_COLUMNS,
    ActualBridge,
    BridgeRow,
    PortRow,
    RowChange,
)

OVSDB_TIMEOUT = 5.0  # seconds for the database to answer, and for ovs-vswitchd after it
DATABASE = "Open_vSwitch"
DEFAULT_PORTS = {"vxlan": "4789", "geneve": "6081"}
"""Of tunnels whose options name none."""
COLUMNS = {
    "Open_vSwitch": ["bridges", "cur_cfg", "next_cfg"],
    "Bridge": [
        *("name", "ports", "datapath_type", "other_config", "external_ids", "fail_mode"),
        *("stp_enable", "rstp_enable"),
    ],
    "Port": ["name", "interfaces", "external_ids", "other_config", *VLAN_COLUMNS],
    "Interface": ["name", "type", "options", "ofport", "error", "external_ids", "ofport_request"],
}


class OvsdbError(OvsError):
    """The database does not answer, or refuses."""


class Ovsdb:
    """A connection to one host's ovsdb-server; one thread at a time."""

    def __init__(self, rundir: Path) -> None:
        """Connect. Raises OvsdbError."""
        silence_package_log()
        self.socket = str(rundir / "db.sock")
        helper = ovs.db.idl.SchemaHelper(schema_json=self._schema())
        for table, columns in COLUMNS.items():
            helper.register_columns(table, columns)
        self._idl = ovs.db.idl.Idl(f"unix:{self.socket}", helper)
        try:
            self._wait(self._idl.has_ever_connected, "ovsdb-server")
        except OvsdbError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._idl.close()

    def refresh(self) -> None:
        """Take in what has changed. Raises OvsdbError when the server is away."""
        deadline = time.monotonic() + OVSDB_TIMEOUT
        self._idl.run()
        session = self._idl._session  # noqa: SLF001 - the IDL tells it nowhere else
        while not session.is_connected():
            if time.monotonic() > deadline:
                raise self._away("ovsdb-server")
            self._block(0.05)
            self._idl.run()
        # the server answers in order: once it has answered this read, all changes before it have
        # arrived. A transaction without any operation would not be sent at all
        txn = ovs.db.idl.Transaction(self._idl)
        for row in self._idl.tables["Open_vSwitch"].rows.values():
            row.fetch("cur_cfg")
        self._commit(txn, deadline)

    def wait_for_change(self, stop: int, seconds: float) -> bool:
        """Wait until rows change, `stop` is readable, or time is up; whether rows have changed."""
        before = self._idl.change_seqno
        self._idl.run()
        if self._idl.change_seqno == before:
            poller = ovs.poller.Poller()
            self._idl.wait(poller)
            poller.fd_wait(stop, ovs.poller.POLLIN)
            poller.timer_wait(int(seconds * 1000))
            poller.block()
            self._idl.run()
        return bool(self._idl.change_seqno != before)

    def actual(self) -> dict[str, ActualBridge]:
        """The bridges there, by name."""
        return {row.name: _actual_bridge(row) for row in self._idl.tables["Bridge"].rows.values()}

    def ofports(self, bridge: str) -> dict[str, int]:
        """OpenFlow port numbers by name: of the ports that ovs-vswitchd could open."""
        numbers = {}
        for row in self._idl.tables["Bridge"].rows.values():
            if row.name == bridge:
                for interface in _interfaces(row):
                    if interface.ofport and interface.ofport[0] > 0:
                        numbers[interface.name] = int(interface.ofport[0])
        return numbers

    def ports_open(self) -> set[str]:
        """Names of the ports of all bridges that ovs-vswitchd could open."""
        names = [row.name for row in self._idl.tables["Bridge"].rows.values()]
        return {port for name in names for port in self.ofports(name)}

    def errors(self, bridge: str) -> dict[str, str]:
        """Why ports could not be opened, by name."""
        return {
            interface.name: str(interface.error[0])
            for row in self._idl.tables["Bridge"].rows.values()
            if row.name == bridge
            for interface in _interfaces(row)
            if interface.error
        }

    def twin(self, port: PortRow) -> str | None:
        """Another port, without our mark, of a tunnel with the same type, key and remote end."""
        for bridge in self._idl.tables["Bridge"].rows.values():
            for interface in _interfaces(bridge):
                theirs = _tunnel_ends(interface.type, interface.options)
                same = theirs == _tunnel_ends(port.type, port.options)
                if same and interface.name != port.name:
                    return f"{interface.name} of bridge {bridge.name}"
        return None

    def open_again(self) -> None:
        """Have ovs-vswitchd try once more what it could not open. Raises OvsdbError."""
        txn = ovs.db.idl.Transaction(self._idl)
        self._root().increment("next_cfg")
        self._commit(txn, time.monotonic() + OVSDB_TIMEOUT)

    def apply(self, changes: Sequence[RowChange]) -> None:
        """Make the changes in one transaction, and wait for ovs-vswitchd. Raises OvsdbError."""
        if not changes:
            return
        txn = ovs.db.idl.Transaction(self._idl)
        txn.add_comment("flatmesh: " + changes[0].line())
        root = self._root()
        bridges = {row.name: row for row in self._idl.tables["Bridge"].rows.values()}
        for change in changes:
            _apply(txn, root, bridges, change)
        root.increment("next_cfg")
        self._commit(txn, time.monotonic() + OVSDB_TIMEOUT)
        wanted = txn.get_increment_new_value()
        self._wait(lambda: self._root().cur_cfg >= wanted, "ovs-vswitchd")

    # -- the connection ----------------------------------------------------------------

    def _root(self) -> Any:
        for row in self._idl.tables["Open_vSwitch"].rows.values():
            return row
        raise OvsdbError("Open vSwitch's database is empty: run ovs-vsctl --no-wait init")

    def _schema(self) -> Any:
        try:
            return request(self.socket, "get_schema", [DATABASE], OVSDB_TIMEOUT)
        except RefusedError:
            raise OvsdbError(f"{self.socket} serves no {DATABASE} database") from None
        except OvsError as error:
            raise self._away("ovsdb-server", error.errno) from None

    def _commit(self, txn: Any, deadline: float) -> None:
        status = txn.commit()
        while status == ovs.db.idl.Transaction.INCOMPLETE:
            if time.monotonic() > deadline:
                txn.abort()
                raise self._away("ovsdb-server")
            self._block(0.05)
            self._idl.run()
            status = txn.commit()
        done = (ovs.db.idl.Transaction.SUCCESS, ovs.db.idl.Transaction.UNCHANGED)
        if status == ovs.db.idl.Transaction.TRY_AGAIN:
            raise OvsdbError("Open vSwitch's database changed underneath; trying again")
        if status not in done:
            reason = txn.get_error() or ovs.db.idl.Transaction.status_to_string(status)
            raise OvsdbError(f"Open vSwitch's database refused: {reason}")

    def _wait(self, condition: Callable[[], bool], who: str) -> None:
        deadline = time.monotonic() + OVSDB_TIMEOUT
        self._idl.run()
        while not condition():
            if time.monotonic() > deadline:
                raise self._away(who)
            self._block(0.02)
            self._idl.run()

    def _block(self, seconds: float) -> None:
        poller = ovs.poller.Poller()
        self._idl.wait(poller)
        poller.timer_wait(int(seconds * 1000))
        poller.block()

    def _away(self, who: str, number: int | None = None) -> OvsdbError:
        return OvsdbError(
            number or errno.ETIMEDOUT,
            f"{who} does not answer ({self.socket}): start it "
            "(Debian: apt install openvswitch-switch, systemctl start openvswitch-switch)",
        )


def _tunnel_ends(kind: str, column: Mapping[str, str]) -> tuple[str, ...]:
    """What Open vSwitch tells tunnels apart by, as far as ours use it; from the options column."""
    key = column.get("key", column.get("in_key", "0"))
    port = column.get("dst_port", DEFAULT_PORTS.get(kind, ""))
    return kind, key, column.get("remote_ip", ""), port


def _interfaces(bridge: Any) -> Iterator[Any]:
    for port in bridge.ports:
        yield from port.interfaces


def _actual_bridge(row: Any) -> ActualBridge:
    ports, foreign = [], set()
    for port in row.ports:
        if port.name == row.name:
            continue
        if MARK not in port.external_ids or len(port.interfaces) != 1:
            foreign.add(port.name)
            continue
        interface = port.interfaces[0]
        ports.append(
            PortRow(
                port.name,
                interface.type,
                dict(interface.options),
                dict(interface.external_ids),
                edge=port.other_config.items() >= EDGE.items(),
                in_vlan=any(getattr(port, column) for column in VLAN_COLUMNS),
            )
        )
    bridge = BridgeRow(
        row.name,
        row.datapath_type or "system",
        dict(row.other_config),
        tuple(ports),
        "rstp" if row.rstp_enable else "stp" if row.stp_enable else "none",
        row.fail_mode[0] if row.fail_mode else "standalone",
    )
    return ActualBridge(bridge, MARK in row.external_ids, frozenset(foreign))


def _apply(txn: Any, root: Any, bridges: dict[str, Any], change: RowChange) -> None:
    tables = txn.idl.tables
    wanted = change.bridge
    match change.verb:
        case "add-br":
            row = txn.insert(tables["Bridge"])
            row.name = wanted.name
            row.external_ids = {MARK: "bridge"}
            _set_bridge(row, wanted)
            _add_port(txn, row, PortRow(wanted.name, "internal"))
            root.addvalue("bridges", row)
            bridges[wanted.name] = row
        case "set-br":
            _set_bridge(bridges[wanted.name], wanted)
        case "del-br":
            root.delvalue("bridges", bridges[wanted.name])
        case "add-port" if change.port is not None:
            _add_port(txn, bridges[wanted.name], change.port)
        case "del-port" if change.port is not None:
            row = bridges[wanted.name]
            for port in _named(row.ports, change.port.name):
                row.delvalue("ports", port)
        case "set-port" if change.port is not None:
            for port in _named(bridges[wanted.name].ports, change.port.name):
                _set_port(port, change.port)
                _set_interface(port.interfaces[0], change.port)


def _named(rows: Iterable[Any], name: str) -> list[Any]:
    return [row for row in rows if row.name == name]


def _set_bridge(row: Any, wanted: BridgeRow) -> None:
    row.datapath_type = wanted.datapath
    row.stp_enable = wanted.spanning_tree == "stp"
    row.rstp_enable = wanted.spanning_tree == "rstp"
    row.fail_mode = wanted.fail_mode
    for key, value in wanted.other_config.items():
        row.setkey("other_config", key, value)  # an operator's own keys stay


def _add_port(txn: Any, bridge: Any, wanted: PortRow) -> None:
    interface = txn.insert(txn.idl.tables["Interface"])
    interface.name = wanted.name
    _set_interface(interface, wanted)
    port = txn.insert(txn.idl.tables["Port"])
    port.name = wanted.name
    port.external_ids = {MARK: "port"}
    if wanted.edge:
        port.other_config = EDGE
    port.interfaces = [interface]
    bridge.addvalue("ports", port)


def _set_port(row: Any, wanted: PortRow) -> None:
    for column in VLAN_COLUMNS:
        setattr(row, column, [])
    for key, value in EDGE.items():
        if wanted.edge:
            row.setkey("other_config", key, value)
        elif key in row.other_config:
            row.delkey("other_config", key)


def _set_interface(row: Any, wanted: PortRow) -> None:
    row.type = wanted.type
    row.options = dict(wanted.options)
    external: Mapping[str, str] = wanted.external_ids
    row.external_ids = dict(external)
