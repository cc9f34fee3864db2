# SPDX-License-Identifier: Apache-2.0
"""The OVSDB rows that a host should have, from config, leases and pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.devices import KBR0, OBR0, OBR0_VETH, UNDERLAY_BRIDGE, UNDERLAY_BRIDGE_VETH
from ovs_mesh.rows import MARK, BridgeRow, PortRow
from ovs_mesh.topology import Peer, TunnelPort

OTHER_CONFIG = {"disable-in-band": "true"}
"""Open vSwitch adds hidden flows for remote OpenFlow controllers, which these bridges lack."""


def desired_rows(
    config: OvsConfig,
    datapath: Datapath,
    underlay_mac: str | None,
    tunnels: Sequence[TunnelPort],
    peers: Sequence[Peer],
    pods: Iterable[str],
    switch_mac: str | None = None,
) -> list[BridgeRow]:
    """The bridges with their ports; `pods` are the host ends of veth pairs that obr0 takes.

    `switch_mac` is that of obr0's own device, where it is the pods' gateway.
    """
    by_port = {peer.port: peer for peer in peers if not peer.chosen_by_flow}
    tree = config.spanning_tree != "none"
    ports: list[PortRow] = []
    if config.attach == KBR0:
        ports.append(PortRow(OBR0_VETH, external_ids={MARK: "kbr0"}, edge=tree))
    for tunnel in tunnels:
        external_ids = {MARK: "tunnel"}
        if (peer := by_port.get(tunnel.name)) is not None:
            external_ids |= {"peer": peer.remote, "subnet": " ".join(map(str, peer.subnets))}
        ports.append(PortRow(tunnel.name, tunnel.tunnel.kind, tunnel.options, external_ids))
    ports += [PortRow(name, external_ids={MARK: "pod"}, edge=tree) for name in pods]
    switch = OTHER_CONFIG | ({"hwaddr": switch_mac} if switch_mac else {})
    rows = [BridgeRow(OBR0, datapath.type, switch, tuple(ports), config.spanning_tree)]
    if datapath.userspace:
        settings = OTHER_CONFIG | ({"hwaddr": underlay_mac} if underlay_mac else {})
        veth = PortRow(UNDERLAY_BRIDGE_VETH, external_ids={MARK: "underlay"})
        rows.insert(0, BridgeRow(UNDERLAY_BRIDGE, datapath.type, settings, (veth,)))
    return rows
