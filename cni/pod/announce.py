# SPDX-License-Identifier: Apache-2.0
"""Tells the neighbours of a new pod its MAC, before the pod can send itself.

An address that another pod had with another MAC would be cut off otherwise, until its neighbours
have asked in vain. Only such addresses are announced (`ipam.last_macs`).

The other ports of the bridge get frames; this host's own entries, which these don't reach, are
changed. Where pods are ports of Open vSwitch there is nothing to do: it sets the MAC of what it
delivers to a pod.

The frames go out before the pod's end is up: the bridge has no carrier to it then, and so the pod
does not hear of its own address.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from cni.config.bridge_config import BridgeConfig
from cni.host import PluginHost
from cni.pod.veth_pair import VethPair
from cni.result.model import ResultAddress
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.neighbour import correct_neighbours
from hostnet.netlink.socket import NetlinkSocket


def announce(
    sock: NetlinkSocket,
    bridge: ActualLink,
    pair: VethPair,
    ips: Sequence[ResultAddress],
    config: BridgeConfig,
    host: PluginHost,
) -> None:
    """Correct the host's entries, and send the frames; what fails is no error of the ADD."""
    from hostnet.announcements import announcement, send_and_leave  # noqa: PLC0415 - not of a DEL

    addresses = [ip.address.partition("/")[0] for ip in ips]
    sock.execute_batch(correct_neighbours(bridge.index, pair.mac, addresses))
    frames = [announcement(pair.mac, address, config.vlan) for address in addresses]
    with contextlib.suppress(OSError):
        (host.send_frames or send_and_leave)(bridge.name, frames)
