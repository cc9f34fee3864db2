# SPDX-License-Identifier: Apache-2.0
"""An OpenFlow pipeline as an ordered list of named tables: pure.

A table says in which stage it stands, which traffic it carries, and what becomes of a packet
that none of its flows matches. The pipeline gives the tables their numbers, and gives the
builder of each table's flows an `Exits`, which writes the actions that lead out of the table:

    exits.next(Traffic.HOST_IP)    to the next table that carries this host's IP packets
    exits.resubmit("flood")        through a table that is not on the way (a subroutine)
    exits.drop("spoofed")          to the counter of a drop reason

So no builder names another table by number, and a table that is put between two others needs
no change in either: one module with its flows, one line in the list (`ovs_mesh.flows.TABLES`).

The number of a table is the first number of its stage plus its place in the stage. A table
that joins one stage moves no table of another, so that after an upgrade few flows differ.

Source: ovs-actions(7) (goto_table leads only to a table of a higher number; resubmit to any).
The idea of stages is antrea's (pkg/agent/openflow/framework.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, IntEnum, auto
from functools import reduce
from itertools import combinations
from operator import or_
from typing import NamedTuple

from ovs_mesh.inputs import HostInputs, PeerInputs
from ovs_mesh.topology import Peer

COOKIE = 0xF1A7_3E54_0000_0001
"""The cookie of every flow that flatmesh makes; flows with another are never touched."""
DROP = "drop"
DROP_TABLE = "dropped"
"""The table that `Exits.drop` leads to: it has a flow, and so a counter, per reason."""
DROP_REGISTER = "reg1"
"""Holds the number of the drop reason on the way there."""
LAST_TABLE = 253  # OpenFlow 1.4, OFPTT_MAX is 254, which Open vSwitch keeps for itself


class Stage(IntEnum):
    """What a table is for. The value is the number of the stage's first table."""

    CLASSIFICATION = 0
    """Where a frame comes from."""
    HOST_VALIDATION = 10
    """Frames of this host and its pods: the sender may use the addresses in them."""
    TUNNEL_VALIDATION = 20
    """Frames from tunnels: the inner source belongs to the host that sent them."""
    NEIGHBOUR = 30
    """ARP and neighbour discovery are answered."""
    PRE_ROUTING = 35
    """Network policies, while there are any."""
    LOCAL = 40
    """Delivery to this host and its pods."""
    REMOTE = 50
    """Delivery to other hosts."""
    FLOOD = 60
    """Copies of one frame to many hosts."""
    DROP = 250
    """Packets that are counted before they are dropped."""


class Traffic(Flag):
    """What is treated alike: by where it comes from, and whether it is ARP or ND, or IP."""

    HOST_NEIGHBOUR = auto()
    """ARP and neighbour discovery of this host and its pods."""
    HOST_IP = auto()
    TUNNEL_NEIGHBOUR = auto()
    TUNNEL_IP = auto()
    HOST = HOST_NEIGHBOUR | HOST_IP
    TUNNEL = TUNNEL_NEIGHBOUR | TUNNEL_IP
    NEIGHBOUR = HOST_NEIGHBOUR | TUNNEL_NEIGHBOUR
    IP = HOST_IP | TUNNEL_IP
    ALL = HOST | TUNNEL
    NONE = 0
    """A table that packets only reach by `Exits.resubmit` or `Exits.drop`."""


class Miss(Enum):
    """What becomes of a packet that no flow of the table matches."""

    DROP = "drop"
    NEXT = "next"
    """It goes on to the next table that carries the same traffic."""
    NONE = "none"
    """No flow for it: the table is only resubmitted to with packets that its flows match."""


class Flow(NamedTuple):
    """One flow of a table, in the syntax of ovs-ofctl(8)."""

    priority: int
    match: str
    actions: str


class PipelineError(ValueError):
    """Tables that make no pipeline, or a way out of a table that there is not."""


HostFlowBuilder = Callable[[HostInputs, "Exits"], Iterable[Flow]]
PeerFlowBuilder = Callable[[PeerInputs, Peer, int, "Exits"], Iterable[Flow]]
"""The number is the OpenFlow port of the tunnel that leads to the peer."""


def no_host_flows(inputs: HostInputs, exits: Exits) -> Iterable[Flow]:
    """A table whose flows are all of peers, or that has none."""
    del inputs, exits
    return ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its place, and who builds its flows."""

    name: str
    stage: Stage
    carries: Traffic
    host_flows: HostFlowBuilder = no_host_flows
    """Builds the flows that depend on this host, its pods and the whole of the peers."""
    peer_flows: PeerFlowBuilder | None = None
    """Builds the flows of one peer, which are kept as long as neither it nor the inputs change."""
    miss: Miss = Miss.DROP
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    """Reasons for which its flows drop packets, each with its number in the register. A number
    is never used again for another reason: counters outlive an upgrade of the daemon."""


@dataclass(frozen=True, slots=True)
class Exits:
    """The ways out of one table, as actions."""

    table: str
    _next: Mapping[Traffic, str]
    """The action by every combination of kinds that go the same way."""
    _numbers: Mapping[str, int]
    """Of all tables."""
    drop_reasons: Mapping[str, int]
    """Of all tables."""

    def next(self, traffic: Traffic) -> str:
        """Lead to the next table that carries this traffic.

        Raises PipelineError when there is none, or when kinds of `traffic` go different ways.
        """
        try:
            return self._next[traffic]
        except KeyError:
            raise PipelineError(
                f"table {self.table}: {traffic} has no next table, or several"
            ) from None

    def track(self, traffic: Traffic, zone: int) -> str:
        """Look a packet's connection up, and lead to the next table that carries this traffic.

        Raises PipelineError as `next`.
        """
        return f"ct(table={self.next(traffic).removeprefix('goto_table:')},zone={zone})"

    def resubmit(self, table: str) -> str:
        """Send the packet through a table, and go on with the next action then."""
        return f"resubmit(,{self._numbers[table]})"

    def drop(self, reason: str) -> str:
        """Drop the packet, and count why."""
        number = self.drop_reasons[reason]
        return f"set_field:{number}->{DROP_REGISTER},goto_table:{self._numbers[DROP_TABLE]}"


class Pipeline:
    """Tables with their numbers and ways."""

    def __init__(self, tables: Sequence[Table]) -> None:
        """Number the tables and connect them. Raises PipelineError."""
        self.tables = tuple(tables)
        self.numbers = _number(self.tables)
        """Table numbers by name, in order."""
        self.drop_reasons = _reasons(self.tables)
        """Numbers of the drop reasons by name."""
        self._exits = {table.name: self._exits_of(table) for table in self.tables}
        self._peer_tables = [
            (table.peer_flows, self._exits[table.name], _start(self.numbers[table.name]))
            for table in self.tables
            if table.peer_flows is not None
        ]
        self._misses = [self._miss(t) for t in self.tables if t.miss is not Miss.NONE]

    def host_flows(self, inputs: HostInputs) -> list[str]:
        """All flows but those of single peers, as lines of ovs-ofctl(8)."""
        lines = list(self._misses)
        for table in self.tables:
            start = _start(self.numbers[table.name])
            built = table.host_flows(inputs, self._exits[table.name])
            lines += [_line(start, *flow) for flow in built]
        return lines

    def peer_flows(self, inputs: PeerInputs, peer: Peer, ofport: int) -> list[str]:
        """The flows of one peer, whose tunnel is port `ofport`."""
        return [
            _line(start, *flow)
            for build, exits, start in self._peer_tables
            for flow in build(inputs, peer, ofport, exits)
        ]

    def _exits_of(self, table: Table) -> Exits:
        later = self.tables[self.tables.index(table) + 1 :]
        following: dict[Traffic, str] = {}
        for other in later:
            new = other.carries & table.carries & ~Traffic(sum(k.value for k in following))
            following |= dict.fromkeys(new, f"goto_table:{self.numbers[other.name]}")
        ways: dict[Traffic, str] = {}
        for count in range(1, len(following) + 1):
            for kinds in combinations(following, count):
                actions = {following[kind] for kind in kinds}
                if len(actions) == 1:
                    ways[reduce(or_, kinds)] = actions.pop()
        return Exits(table.name, ways, self.numbers, self.drop_reasons)

    def _miss(self, table: Table) -> str:
        exits = self._exits[table.name]
        actions = DROP if table.miss is Miss.DROP else exits.next(table.carries)
        return _line(_start(self.numbers[table.name]), 0, "", actions)


def _number(tables: Sequence[Table]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    last, stage = -1, Stage.CLASSIFICATION
    for table in tables:
        if table.stage < stage:
            raise PipelineError(f"table {table.name} of stage {table.stage.name} stands too late")
        if table.name in numbers:
            raise PipelineError(f"two tables are called {table.name}")
        number = max(int(table.stage), last + 1)
        end = min((int(s) for s in Stage if s > table.stage), default=LAST_TABLE + 1)
        if number >= end:
            raise PipelineError(f"stage {table.stage.name} has no number left for {table.name}")
        numbers[table.name] = last = number
        stage = table.stage
    return numbers


def _reasons(tables: Sequence[Table]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for table in tables:
        for reason, number in table.drop_reasons.items():
            if reason in reasons or number in reasons.values():
                raise PipelineError(f"drop reason {reason} or its number {number} is taken")
            reasons[reason] = number
    return dict(sorted(reasons.items(), key=lambda item: item[1]))


def _start(table: int) -> str:
    """How the lines of a table's flows begin."""
    return f"cookie={COOKIE:#x},table={table},priority="


def _line(start: str, priority: int, match: str, actions: str) -> str:
    if match:
        return f"{start}{priority},{match} actions={actions}"
    return f"{start}{priority} actions={actions}"
