"""The devices and rows of one host: names, and the rows wanted in OVSDB. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ovs_mesh.bridges import MARK, Bridge, Port
from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.topology import Peer, TunnelPort
from ovs_mesh.userspace import PHY, SWITCH_END

KBR0, OBR0 = "kbr0", "obr0"
BRIDGE_END, SWITCH_CABLE_END = "kbr0-obr0", "obr0-kbr0"
"""The cable from kbr0 to obr0: its end in the Linux bridge, and its end in the switch."""
OTHER_CONFIG = {"disable-in-band": "true"}
"""No hidden flows: we are no remote controller."""


def bridges(
    config: OvsConfig,
    datapath: Datapath,
    underlay_mac: str | None,
    tunnels: Sequence[TunnelPort],
    peers: Sequence[Peer],
    pods: Iterable[str],
) -> list[Bridge]:
    """The rows wanted; `pods` are the host ends of cables that go straight into obr0."""
    subnets = {peer.port: peer for peer in peers if not peer.chosen_by_flow}
    tree = config.spanning_tree != "none"
    ports: list[Port] = []
    if config.attach == KBR0:
        ports.append(Port(SWITCH_CABLE_END, external_ids={MARK: "kbr0"}, edge=tree))
    for tunnel in tunnels:
        notes = {MARK: "tunnel"}
        if (peer := subnets.get(tunnel.name)) is not None:
            notes |= {"peer": peer.remote, "subnet": " ".join(map(str, peer.subnets))}
        ports.append(Port(tunnel.name, tunnel.tunnel.kind, tunnel.options, notes))
    ports += [Port(name, external_ids={MARK: "pod"}, edge=tree) for name in pods]
    wanted = [Bridge(OBR0, datapath.type, OTHER_CONFIG, tuple(ports), config.spanning_tree)]
    if datapath.userspace:
        settings = OTHER_CONFIG | ({"hwaddr": underlay_mac} if underlay_mac else {})
        cable = Port(SWITCH_END, external_ids={MARK: "underlay"})
        wanted.insert(0, Bridge(PHY, datapath.type, settings, (cable,)))
    return wanted
