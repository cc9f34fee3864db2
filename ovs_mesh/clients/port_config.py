# SPDX-License-Identifier: Apache-2.0
"""What OpenFlow forbids a port: `ovs-ofctl mod-port BRIDGE PORT no-forward` and the like.

Nothing of ours is forbidden anything. The database does not have these flags. OpenFlow 1.0 is
asked, as later versions lack some of them. Source: ovs-ofctl(8), openflow/openflow-1.0.h.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from ovs_mesh.clients.openflow import Switch

PROTOCOL = "OpenFlow10"
ALLOW = {
    "PORT_DOWN": "up",
    "NO_STP": "stp",
    "NO_RECV": "receive",
    "NO_RECV_STP": "receive-stp",
    "NO_FLOOD": "flood",
    "NO_FWD": "forward",
    "NO_PACKET_IN": "packet-in",
}
"""The flags, and what mod-port calls their opposite."""
_PORT = re.compile(r"^ *(\S+?)\((\S+)\): addr:.*\n +config: +(.*)$", re.MULTILINE)


class PortChange(NamedTuple):
    """One flag to take back."""

    port: str
    allow: str

    def line(self, bridge: str) -> str:
        """As a command."""
        return f"ovs-ofctl mod-port {bridge} {self.port} {self.allow}"


def changes(switch: Switch, ports: Collection[str]) -> list[PortChange]:
    """What our ports and the bridge's own are forbidden. Raises OpenFlowError."""
    return read_changes(switch.run("dump-ports-desc", protocol=PROTOCOL), ports)


def apply(switch: Switch, wrong: Collection[PortChange]) -> None:
    """Take it back. Raises OpenFlowError."""
    for change in wrong:
        switch.run("mod-port", change.port, change.allow, protocol=PROTOCOL)


def read_changes(text: str, ports: Collection[str]) -> list[PortChange]:
    """Read dump-ports-desc.

    The bridge's own port may be down: whether its device has to be up is not decided here.
    """
    found = []
    for number, name, config in _PORT.findall(text):
        local = number == "LOCAL"
        if local or name in ports:
            flags = [flag for flag in config.split() if not (local and flag == "PORT_DOWN")]
            found += [PortChange(name, ALLOW[flag]) for flag in flags if flag in ALLOW]
    return found
