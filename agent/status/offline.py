# SPDX-License-Identifier: Apache-2.0
"""The report on a host whose daemon does not answer: from files, and from the kernel's tables."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from agent.status.advice import advice
from agent.status.model import HostReport, Peer, Pod
from agent.status.pods import pods_here
from agent.status.round_trip import round_trips
from agent.status.together import together
from base import paths
from hostnet.kernel import Kernel
from hostnet.kinds.route_messages import Route
from hostnet.state import HostState
from ipam.network import parse_config
from ipam.subnet_env import SubnetEnv, SubnetEnvError

ANSWER_TIMEOUT = 0.5
"""Seconds for everything: the daemon was waited for already."""
PROBE_TIMEOUT = 0.3
"""Seconds for peers to answer."""
MAX_PROBED = 1000


def offline_report(
    state_dir: Path, subnet_file: Path, host_name: str, why: str, parts: Iterable[str]
) -> HostReport:
    """What can be known; `why` is the reason that the daemon gave no report."""
    wanted = {"subnets", "backend", *parts}
    questions: dict[str, Callable[[], Any]] = {
        "subnets": lambda: SubnetEnv.read(subnet_file),
        "backend": lambda: _backend(state_dir / paths.CONFIG_FILE),
        "pods": lambda: pods_here(state_dir),
        "peers": lambda: _peers(subnet_file),
    }
    asked = {name: ask for name, ask in questions.items() if name in wanted}
    found, failed = together(asked, ANSWER_TIMEOUT)
    env: SubnetEnv | None = found.get("subnets")
    known = [why, *(f"{name}: {reason}" for name, reason in failed.items() if name != "backend")]
    if env is not None:
        known[0] += "; pods and packets are served meanwhile, changed leases are not followed"
    pods: tuple[Pod, ...] = found.get("pods", ())
    peers: tuple[Peer, ...] = found.get("peers", ())
    report = HostReport(
        "files",
        host_name or socket.gethostname(),
        networks=tuple(map(str, (*env.networks, *env.ipv6_networks))) if env else (),
        subnets=tuple(str(i.network) for i in (env.subnet, env.ipv6_subnet) if i) if env else (),
        backend=found.get("backend", ""),
        pod_mtu=env.mtu if env else None,
        peers=peers,
        pods=pods,
    )
    return replace(report, problems=advice(report, known))


def _backend(file: Path) -> str:
    """The backend of the config that was in force last."""
    return parse_config(json.dumps(json.loads(file.read_text())["config"])).backend_type


def _peers(subnet_file: Path) -> tuple[Peer, ...]:
    """Peers as this host's routes name them."""
    networks = set[str]()
    with contextlib.suppress(OSError, SubnetEnvError):
        env = SubnetEnv.read(subnet_file)
        networks = {str(one) for one in (*env.networks, *env.ipv6_networks)}
    with Kernel() as kernel:
        ours = kernel.dump(HostState()).of(Route)
    # udp has one route to the whole network
    subnets = [one.destination for one in ours if one.destination not in networks][:MAX_PROBED]
    rows = {one: _targets(one) for one in subnets}
    answers = round_trips([a for pair in rows.values() for a in pair], PROBE_TIMEOUT)
    peers = []
    for subnet, targets in rows.items():
        times = [answers[one] for one in targets if one in answers]
        took = round(min(times) * 1000, 3) if times else None
        peers.append(Peer(subnets=(subnet,), round_trip=took, probed=True))
    return tuple(peers)


def _targets(subnet: str) -> list[str]:
    base = ip_network(subnet).network_address
    return [str(base + 1), str(base)]
