# SPDX-License-Identifier: Apache-2.0
"""Throughput and latency of the ovs backend's meshes, from pod to pod between two hosts."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.ovs.recipe import HAND_MADE, hand_made
from bench.prerequisites import progress
from bench.report import Report
from bench.throughput import pod_path, underlay_path
from bench.traffic import TrafficPath, gigabits, iperf_server, round_trips
from bench.udp import Figures, busy_seconds
from lab import hosts
from lab.cluster import Lab
from lab.spec import LabSpec
from ovs_mesh.config import MESHES

KERNEL = "kernel vxlan"
PING_ROUNDS = 3
GOALS = (("TCP 1 stream", "at least", 0.9), ("round trip", "at most", 1 / 0.9))


@contextlib.contextmanager
def running_lab(spec: LabSpec, directory: Path) -> Iterator[Lab]:
    """A lab that is up, and taken down afterwards."""
    lab = Lab(spec, directory)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def backend(tunnel: str, mesh: str) -> dict[str, object]:
    """The cluster config's Backend; `combined` gives the two hosts a port of their own."""
    config: dict[str, object] = {"Type": "ovs", "Tunnel": tunnel, "Mesh": mesh}
    rule = {"CIDR": f"{hosts.UNDERLAY_IPV4}.0/24", "Tunnel": tunnel, "Key": 7}
    return config | ({"Peers": [rule]} if mesh == "combined" else {})


@contextlib.contextmanager
def paths(tunnel: str, kernel: Lab, directory: Path) -> Iterator[list[TrafficPath]]:
    """Yield all paths to compare for one tunnel type, an iperf3 server running on each."""
    with contextlib.ExitStack() as stack:
        found = [
            underlay_path(kernel),
            pod_path(KERNEL, kernel),
            stack.enter_context(hand_made(tunnel, directory)),
        ]
        for mesh in MESHES:
            spec = LabSpec(f"benchovs{mesh}", 2, 1, backend(tunnel, mesh))
            found.append(pod_path(mesh, stack.enter_context(running_lab(spec, directory))))
        for path in found:
            stack.enter_context(iperf_server(path.server))
        yield found


def traffic(tunnels: tuple[str, ...], seconds: int, rounds: int, directory: Path) -> Report:
    """Throughput and latency of each tunnel type."""
    figures = Figures()
    with running_lab(LabSpec("benchovskernel", 2, 1), directory) as kernel:
        for tunnel in tunnels:
            with paths(tunnel, kernel, directory) as found:
                for path in found:
                    round_trips(path, 1)  # so that megaflows, neighbours and FDB entries exist
                for number in range(rounds):
                    start = number % len(found)  # no path always runs first
                    for path in found[start:] + found[:start]:
                        progress(f"{tunnel}, round {number + 1} of {rounds}: {path.name}")
                        before = busy_seconds()
                        rate = gigabits(path, seconds, ("-P", "1"))
                        busy = (busy_seconds() - before) / (rate * 1e9 * seconds / 8 / 2**30)
                        figures.add(path, f"{tunnel}: TCP 1 stream", "Gbit/s", rate)
                        figures.add(path, f"{tunnel}: CPU per GiB", "s", busy)
                    for path in found if number < PING_ROUNDS else ():
                        rtt = statistics.median(round_trips(path, 1))
                        figures.add(path, f"{tunnel}: round trip", "ms", rtt)
    return figures.report("ovs backend, pod to pod", HAND_MADE)


def show_goals(report: Report, tunnels: tuple[str, ...]) -> None:
    """Print the ratio of each mesh beside its goal."""
    for tunnel in tunnels:
        for what, how, goal in GOALS:
            ratios = [(mesh, report.ratio(mesh, f"{tunnel}: {what}")) for mesh in MESHES]
            text = ", ".join(f"{mesh} {ratio:.2f}" for mesh, ratio in ratios)
            print(f"{tunnel}: {what}: {text} times {HAND_MADE}; the goal is {how} {goal:.2f}")
