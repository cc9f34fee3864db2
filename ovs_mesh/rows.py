"""OVSDB rows wanted, rows found, and the changes between them: pure.

A bridge or port of ours bears `flatmesh` in its external_ids; what doesn't is never touched,
also on a bridge of ours. Sources: ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ovs_mesh.errors import OvsError

MARK = "flatmesh"


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port with its one interface."""

    name: str
    type: str = ""
    """Empty: a device of the host's."""
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    edge: bool = False
    """Whether it leads to no other switch (IEEE 802.1w): it need not wait for the tree."""


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """A bridge with the ports of ours."""

    name: str
    datapath: str
    """`system` (the kernel's) or `netdev` (userspace)."""
    other_config: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PortRow, ...] = ()
    spanning_tree: str = "none"
    """Or `stp`, `rstp`."""


@dataclass(frozen=True, slots=True)
class ActualBridge:
    """What the database holds of a bridge's name."""

    bridge: BridgeRow
    ours: bool
    foreign_ports: frozenset[str] = frozenset()
    """Ports without our mark: they stay, and their names are taken."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change: `add-br`, `set-br`, `del-br`, `add-port`, `set-port` or `del-port`."""

    verb: str
    bridge: BridgeRow
    port: PortRow | None = None

    def line(self) -> str:
        """As ovs-vsctl would be told."""
        name = self.bridge.name
        match self.verb:
            case "add-br":
                return f"ovs-vsctl add-br {name} -- set bridge {name} {self._bridge()}"
            case "set-br":
                return f"ovs-vsctl set bridge {name} {self._bridge()}"
            case "del-br":
                return f"ovs-vsctl del-br {name}"
        port = self.port
        if port is None:
            raise ValueError(f"{self.verb} without a port")
        if self.verb == "del-port":
            return f"ovs-vsctl del-port {name} {port.name}"
        words = [f"type={port.type or 'system'}", *_words("options", port.options)]
        verb = f"add-port {name} {port.name} -- set" if self.verb == "add-port" else "set"
        return f"ovs-vsctl {verb} interface {port.name} {' '.join(words)}"

    def _bridge(self) -> str:
        return " ".join(
            [
                f"datapath_type={self.bridge.datapath}",
                f"stp_enable={str(self.bridge.spanning_tree == 'stp').lower()}",
                f"rstp_enable={str(self.bridge.spanning_tree == 'rstp').lower()}",
                *_words("other_config", self.bridge.other_config),
            ]
        )


class BridgeConflictError(OvsError):
    """A bridge or port without our mark has a name that we need."""


def row_changes(wanted: Iterable[BridgeRow], found: Mapping[str, ActualBridge]) -> list[RowChange]:
    """The changes, ports before the bridges that go. Raises BridgeConflictError."""
    changes: list[RowChange] = []
    names = set()
    for bridge in wanted:
        names.add(bridge.name)
        have = found.get(bridge.name)
        if have is None:
            changes.append(RowChange("add-br", bridge))
            changes += [RowChange("add-port", bridge, port) for port in bridge.ports]
            continue
        if not have.ours:
            raise BridgeConflictError(
                f"bridge {bridge.name} is in Open vSwitch already and not ours: rename or remove it"
            )
        settled = bridge.other_config.items() <= have.bridge.other_config.items()
        same = (bridge.datapath, bridge.spanning_tree) == (
            have.bridge.datapath,
            have.bridge.spanning_tree,
        )
        if not same or not settled:
            changes.append(RowChange("set-br", bridge))
        changes += _ports(bridge, have)
    for name in sorted(found.keys() - names):
        if found[name].ours:
            changes.append(RowChange("del-br", found[name].bridge))
    return changes


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


def _words(column: str, values: Mapping[str, str]) -> list[str]:
    return [f"{column}:{key}={value}" for key, value in sorted(values.items())]
