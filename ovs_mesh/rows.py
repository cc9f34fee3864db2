# SPDX-License-Identifier: Apache-2.0
"""OVSDB rows as values: desired, actual, and the changes between them. Pure.

Bridges and ports that flatmesh made have `flatmesh` in their external_ids. All others are never
touched, also when they are ports of such a bridge. Source: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ovs_mesh.errors import OvsError

MARK = "flatmesh"
EDGE = {"stp-enable": "false", "rstp-port-admin-edge": "true"}
"""What a port has in other_config that leads to pods. With STP their BPDUs are swallowed. With RSTP
they are not: Open vSwitch floods nothing to a port that has `rstp-enable` false."""
VLAN_COLUMNS = ("tag", "trunks", "vlan_mode")
NO_VLAN = " ".join(VLAN_COLUMNS)


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port with its one interface."""

    name: str
    type: str = ""
    """Empty: a device of the host."""
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    edge: bool = False
    """Whether it leads to pods, and so to no other switch (IEEE 802.1w): it forwards without
    waiting for the spanning tree."""
    in_vlan: bool = False
    """Whether the port is confined to VLANs, as none of ours is: floods pass it by then."""


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """A bridge with its marked ports."""

    name: str
    datapath: str
    """`system` (the kernel's) or `netdev` (userspace)."""
    other_config: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PortRow, ...] = ()
    spanning_tree: str = "none"
    """Or `stp`, `rstp`."""
    fail_mode: str = "secure"
    """No flows, no traffic; with `standalone` a bridge becomes a learning switch by itself."""


@dataclass(frozen=True, slots=True)
class ActualBridge:
    """A bridge as the database has it."""

    bridge: BridgeRow
    ours: bool
    """Whether it bears our mark."""
    foreign_ports: frozenset[str] = frozenset()
    """Ports without our mark: they stay, and we cannot use their names."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change: `add-br`, `set-br`, `del-br`, `add-port`, `set-port` or `del-port`."""

    verb: str
    bridge: BridgeRow
    port: PortRow | None = None

    def line(self) -> str:
        """As a command of ovs-vsctl."""
        name = self.bridge.name
        match self.verb:
            case "add-br":
                mark = f"external_ids:{MARK}=bridge"
                return f"ovs-vsctl add-br {name} -- set bridge {name} {self._bridge()} {mark}"
            case "set-br":
                return f"ovs-vsctl set bridge {name} {self._bridge()}"
            case "del-br":
                return f"ovs-vsctl del-br {name}"
        if self.port is None:
            raise ValueError(f"{self.verb} without a port")
        return f"ovs-vsctl {self._port(self.port)}"

    def _port(self, port: PortRow) -> str:
        if self.verb == "del-port":
            return f"del-port {self.bridge.name} {port.name}"
        adds = self.verb == "add-port"
        of_port = [f"external_ids:{MARK}=port"] * adds
        of_port += _settings("other_config", EDGE) if port.edge else []
        columns = [f"type={port.type}"] if port.type else ["type='\"\"'"] * (not adds)
        columns += _settings("options", port.options)
        columns += _settings("external_ids", port.external_ids)
        name = port.name
        commands = [
            f"add-port {self.bridge.name} {name}" if adds else f"clear port {name} {NO_VLAN}",
            f"set port {name} {' '.join(of_port)}" if of_port else "",
            f"set interface {name} {' '.join(columns)}" if columns else "",
        ]
        return " -- ".join(filter(None, commands))

    def _bridge(self) -> str:
        return " ".join(
            [
                f"datapath_type={self.bridge.datapath}",
                f"fail_mode={self.bridge.fail_mode}",
                f"stp_enable={str(self.bridge.spanning_tree == 'stp').lower()}",
                f"rstp_enable={str(self.bridge.spanning_tree == 'rstp').lower()}",
                *_settings("other_config", self.bridge.other_config),
            ]
        )


class BridgeConflictError(OvsError):
    """A bridge or port without our mark has a name that we need."""


def row_changes(
    desired: Iterable[BridgeRow], actual: Mapping[str, ActualBridge]
) -> list[RowChange]:
    """The changes; bridges that are no longer desired come last. Raises BridgeConflictError."""
    changes: list[RowChange] = []
    names = set()
    for bridge in desired:
        names.add(bridge.name)
        have = actual.get(bridge.name)
        if have is None:
            changes.append(RowChange("add-br", bridge))
            changes += [RowChange("add-port", bridge, port) for port in bridge.ports]
            continue
        if not have.ours:
            raise BridgeConflictError(
                f"bridge {bridge.name} is in Open vSwitch already and not ours: rename or remove it"
            )
        configured = bridge.other_config.items() <= have.bridge.other_config.items()
        if _settled(bridge) != _settled(have.bridge) or not configured:
            changes.append(RowChange("set-br", bridge))
        changes += _ports(bridge, have)
    for name in sorted(actual.keys() - names):
        if actual[name].ours:
            changes.append(RowChange("del-br", actual[name].bridge))
    return changes


def without_ports(rows: Iterable[BridgeRow], names: Collection[str]) -> list[BridgeRow]:
    """The bridges without the ports of these names."""
    return [replace(r, ports=tuple(p for p in r.ports if p.name not in names)) for r in rows]


def _settled(bridge: BridgeRow) -> tuple[str, str, str]:
    return bridge.datapath, bridge.spanning_tree, bridge.fail_mode


def _ports(bridge: BridgeRow, have: ActualBridge) -> list[RowChange]:
    there = {port.name: port for port in have.bridge.ports}
    wanted = {port.name for port in bridge.ports}
    gone = sorted(there.keys() - wanted)
    changes = [RowChange("del-port", bridge, there[name]) for name in gone]
    for port in bridge.ports:
        if port.name in have.foreign_ports:
            raise BridgeConflictError(
                f"port {port.name} of bridge {bridge.name} is not ours: rename or remove it"
            )
        if port.name not in there:
            changes.append(RowChange("add-port", bridge, port))
        elif there[port.name] != port:
            changes.append(RowChange("set-port", bridge, port))
    return changes


def _settings(column: str, values: Mapping[str, str]) -> list[str]:
    return [f"{column}:{key}={_quoted(value)}" for key, value in sorted(values.items())]


def _quoted(value: str) -> str:
    """As a shell and ovs-vsctl take it: a colon would begin another key."""
    return value if re.fullmatch(r"[\w.-]+", value) else f"'\"{value}\"'"
