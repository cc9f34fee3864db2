# SPDX-License-Identifier: Apache-2.0
"""Table `classify`: a frame comes from this host, from a pod, or from a tunnel of the mesh.

Anything else (a port that somebody added to obr0) is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh.inputs import HostInputs
from ovs_mesh.pipeline import Exits, Flow, Stage, Table, Traffic


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    to_host, to_tunnel = exits.next(Traffic.HOST), exits.next(Traffic.TUNNEL)
    yield Flow(100, f"in_port={inputs.host.gateway_port}", to_host)
    for pod in inputs.host.pods:
        if pod.ofport is not None:
            yield Flow(100, f"in_port={pod.ofport}", to_host)
    if (shared := inputs.shared_port) is not None:
        port = f"in_port={shared}"
        yield Flow(100, f"tun_id={inputs.config.tunnel.key},{port}", to_tunnel)
        yield Flow(90, port, exits.drop("wrong_key"))
    for name in sorted({peer.port for peer in inputs.peers if not peer.chosen_by_flow}):
        yield Flow(100, f"in_port={inputs.ofports[name]}", to_tunnel)


CLASSIFY = Table(
    "classify", Stage.CLASSIFICATION, Traffic.ALL, _flows, drop_reasons={"wrong_key": 3}
)
