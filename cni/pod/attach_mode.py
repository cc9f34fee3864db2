"""Who plugs the host end of a pod's cable into what.

Usually we do, into a Linux bridge. A daemon that keeps another switch (Open vSwitch) writes
`attach.json` into the run directory:

    {"bridge": null, "mode": "ovs"}

Then the host end is left without a master, the gateway addresses are the daemon's business,
and `Host.on_pods_changed` tells it to look for new host ends (alias `flatmesh-pod ...`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cni.errors import INVALID_CONFIG, CniError

FILE = "attach.json"


@dataclass(frozen=True, slots=True)
class AttachMode:
    """How host ends are attached."""

    mode: str = "bridge"
    """`bridge`, or the name of a switch that the daemon plugs host ends into."""

    @property
    def to_bridge(self) -> bool:
        """Whether we plug them in ourselves."""
        return self.mode == "bridge"

    @classmethod
    def read(cls, run_dir: Path) -> AttachMode:
        """The mode of this host; the bridge where no file says otherwise.

        Raises CniError (7) for a file that can't be understood.
        """
        path = run_dir / FILE
        try:
            text = path.read_text()
        except FileNotFoundError:
            return cls()
        try:
            mode = json.loads(text)["mode"]
        except (ValueError, KeyError, TypeError):
            mode = None
        if mode not in ("bridge", "ovs"):
            raise CniError(
                INVALID_CONFIG, f'{path}: is not {{"bridge": null, "mode": "ovs"}}; remove it'
            )
        return cls(mode)
