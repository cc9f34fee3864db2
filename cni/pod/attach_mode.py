# SPDX-License-Identifier: Apache-2.0
"""Whether this host's pods are attached to a Linux bridge or to another switch.

Usually the plugin makes the host's end of a veth pair a port of a Linux bridge. A daemon that
attaches pods to Open vSwitch writes `attach.json` into the run directory:

    {"bridge": null, "mode": "ovs"}

Then the plugin leaves the host's end without a master and gives no bridge a gateway address.
`PluginHost.on_pods_changed` tells the daemon to look for new host ends, which have the alias
`flatmesh-pod NETWORK CONTAINER IFNAME`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from base.paths import ATTACH_FILE
from cni.errors import INVALID_CONFIG, CniError


class AttachMode(NamedTuple):
    """How the host's ends of veth pairs are attached."""

    mode: str = "bridge"
    """`bridge`, or `ovs`: the daemon attaches them to Open vSwitch."""

    @property
    def to_bridge(self) -> bool:
        """Whether the plugin attaches them itself."""
        return self.mode == "bridge"

    @classmethod
    def read(cls, run_dir: Path) -> AttachMode:
        """The mode of this host; `bridge` where there is no file.

        Raises CniError (7) for a file of another form.
        """
        path = run_dir / ATTACH_FILE
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
