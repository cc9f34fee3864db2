# SPDX-License-Identifier: Apache-2.0
"""The flows of a bridge: read, compared and changed by ovs-ofctl.

`ovs-ofctl diff-flows` compares flows by their meaning, however they are written, so nothing
here parses a match. Only flows with our cookie are compared: all others stay. The changes are
applied as one atomic bundle (OpenFlow 1.4, section 6.9): no packet is treated by half of them,
and the flows that stay keep their counters. While no other program has changed the switch,
`difference` between the flows that were applied and the desired ones gives the same changes at
a fraction of the cost.

Source: ovs-ofctl(8).
"""

from __future__ import annotations

import errno
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ovs_mesh.errors import OvsError
from ovs_mesh.flows import POLICY_PIPELINE
from ovs_mesh.pipeline import COOKIE, DROP_TABLE
from ovs_mesh.tables.spoof import ANTI_SPOOF

OFCTL_TIMEOUT = 10.0  # seconds for one call; a bundle of 15,000 flows takes under two
PROTOCOL = "OpenFlow14"
MINE = f"cookie={COOKIE:#x}"
TABLE, PRIORITY = re.compile(r"\btable=(\d+)"), re.compile(r"\bpriority=(\d+)")
PORT_STATISTICS = re.compile(r"n_packets=(\d+).*?,in_port=(\d+)")
STATISTICS = re.compile(r"n_packets=(\d+).*?,reg1=(\w+)")


class OpenFlowError(OvsError):
    """The switch does not answer, or it or ovs-ofctl refuses."""


@dataclass(frozen=True, slots=True)
class FlowChange:
    """One line of a bundle: `add` or `delete_strict`."""

    verb: str
    flow: str
    replaces: bool = False
    """Whether a flow with this match is there already."""

    @property
    def place(self) -> tuple[int, int]:
        """Table and priority; where the line has none, 0 and 32768 (ovs-ofctl(8))."""
        table, priority = TABLE.search(self.flow), PRIORITY.search(self.flow)
        return int(table[1]) if table else 0, int(priority[1]) if priority else 32768

    def line(self, bridge: str) -> str:
        """As a command."""
        flow = re.sub(r"\s*cookie=[^\s,]+,?", "", self.flow)
        if self.verb == "add":
            return f"ovs-ofctl -O {PROTOCOL} add-flow {bridge} '{MINE},{flow}'"
        return f"ovs-ofctl -O {PROTOCOL} --strict del-flows {bridge} '{flow}'"


@dataclass(frozen=True, slots=True)
class Switch:
    """One bridge's OpenFlow side."""

    rundir: Path
    bridge: str

    @property
    def target(self) -> str:
        """Its management socket, as ovs-ofctl(8) names it."""
        return f"unix:{self.rundir / self.bridge}.mgmt"

    def changes(self, wanted: Iterable[str]) -> list[FlowChange]:
        """The changes from the flows that are there to the wanted ones. Raises OpenFlowError."""
        with tempfile.NamedTemporaryFile("w", prefix="flatmesh-flows-", delete=False) as file:
            file.write("\n".join(wanted) + "\n")
        try:
            done = self._run("diff-flows", file.name, self.target, expected=(0, 2))
        finally:
            Path(file.name).unlink()
        return read_difference(done)

    def apply(self, changes: Sequence[FlowChange]) -> None:
        """Apply all of them, or none. Raises OpenFlowError."""
        if changes:
            lines = (f"flow {change.verb} {change.flow}" for change in changes)
            self._run("bundle", self.target, "-", text="\n".join(lines) + "\n")

    def dropped(self) -> dict[str, int]:
        """Packets dropped since the flows were made, by reason. Raises OpenFlowError."""
        reasons = {number: reason for reason, number in POLICY_PIPELINE.drop_reasons.items()}
        counts = dict.fromkeys(reasons.values(), 0)
        table = f"table={POLICY_PIPELINE.numbers[DROP_TABLE]}"
        for line in self._run("dump-flows", self.target, table).splitlines():
            if MINE in line and (found := STATISTICS.search(line)):
                counts[reasons[int(found[2], 0)]] += int(found[1])
        return counts

    def refused(self) -> dict[int, int]:
        """Packets that were refused from pods, by port, since their flows were made.

        Raises OpenFlowError.
        """
        counts: Counter[int] = Counter()
        end = f"goto_table:{POLICY_PIPELINE.numbers[DROP_TABLE]}"
        table = f"table={POLICY_PIPELINE.numbers[ANTI_SPOOF.name]}"
        for line in self._run("dump-flows", self.target, table).splitlines():
            if MINE in line and line.endswith(end) and (found := PORT_STATISTICS.search(line)):
                counts[int(found[2])] += int(found[1])
        return counts

    def run(self, command: str, *arguments: str, protocol: str) -> str:
        """A command of ovs-ofctl about this bridge; its output. Raises OpenFlowError."""
        return self._run(command, self.target, *arguments, protocol=protocol)

    def _run(
        self,
        command: str,
        *arguments: str,
        text: str = "",
        expected: Sequence[int] = (0,),
        protocol: str = PROTOCOL,
    ) -> str:
        argv = ["ovs-ofctl", "--no-names", "-O", protocol, command, *arguments]
        try:
            done = subprocess.run(
                argv, input=text, capture_output=True, text=True, check=False, timeout=OFCTL_TIMEOUT
            )
        except FileNotFoundError:
            raise OpenFlowError(
                "ovs-ofctl is not installed: apt install openvswitch-switch"
            ) from None
        except subprocess.TimeoutExpired:
            raise OpenFlowError(
                errno.ETIMEDOUT,
                f"bridge {self.bridge}: ovs-vswitchd does not answer in {OFCTL_TIMEOUT:g} s",
            ) from None
        if done.returncode not in expected:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
            raise OpenFlowError(f"bridge {self.bridge}: {command}: {words[0]}")
        return done.stdout


def difference(before: AbstractSet[str], wanted: AbstractSet[str]) -> list[FlowChange]:
    """The changes from flows that were applied to the wanted ones."""
    return _changes(sorted(wanted - before), sorted(before - wanted))


def read_difference(difference: str) -> list[FlowChange]:
    """Read diff-flows: `-` is what only the wanted flows have, `+` what only the switch has."""
    lines = [(line[:1], line[1:].strip()) for line in difference.splitlines() if MINE in line]
    return _changes(
        [flow for s, flow in lines if s == "-"], [flow for s, flow in lines if s == "+"]
    )


def _changes(add: Sequence[str], delete: Sequence[str]) -> list[FlowChange]:
    wanted = [(_match(flow), flow) for flow in add]
    there = [_match(flow) for flow in delete]
    replaced, known = {match for match, _ in wanted}, set(there)
    gone = [f"{MINE}/-1,{match}" for match in there if match not in replaced]
    return [FlowChange("delete_strict", flow) for flow in gone] + [
        FlowChange("add", flow, match in known) for match, flow in wanted
    ]


def _match(flow: str) -> str:
    """A flow without its actions and cookie."""
    return re.sub(r"[,\s]*cookie=[^\s,]+", "", flow.partition(" actions=")[0]).strip(" ,")
