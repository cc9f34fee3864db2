# SPDX-License-Identifier: Apache-2.0
"""Ports of hosts that no service may be published on: it would take over the cluster's own."""

from __future__ import annotations

from collections.abc import Iterable

from agent.inputs import HostInputs
from services.mesh.rules import PORT

SCHEDULER_PORT = 2377  # TCP


def reserved_ports(
    host: HostInputs, etcd: Iterable[int], metrics: int
) -> dict[tuple[str, int], str]:
    """(protocol, port) with what it is for; `metrics` 0 is off."""
    found = {("tcp", port): "etcd" for port in etcd}
    found |= {(one.protocol, one.port): "its tunnels" for one in host.backend.arrivals().ports}
    found["udp", PORT] = "the ingress tunnel"
    found["tcp", SCHEDULER_PORT] = "the scheduler"
    if host.config.service_zone:
        found["tcp", 53] = found["udp", 53] = "services' names"
    if metrics:
        found["tcp", metrics] = "flatmeshd's metrics"
    return found
