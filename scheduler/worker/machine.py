# SPDX-License-Identifier: Apache-2.0
"""What this node has: processors, memory, platform, address."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from scheduler.model.container import Reservations
from scheduler.model.node import Engine, NodeDescription, Plugin
from scheduler.model.service import Platform

MEMINFO = Path("/proc/meminfo")
ANY_ROUTE = ("192.0.2.1", 9)  # TEST-NET-1: nothing is sent


def describe(hostname: str, version: str) -> NodeDescription:
    """For placement and for people."""
    machine = os.uname()
    return NodeDescription(
        hostname=hostname or machine.nodename,
        platform=Platform(architecture=machine.machine, os="linux"),
        resources=Reservations(
            nano_cpus=len(os.sched_getaffinity(0)) * 10**9, memory_bytes=memory_bytes()
        ),
        engine=Engine(
            engine_version=version,
            plugins=[Plugin(type="Network", name="flatmesh"), Plugin(type="Log", name="json-file")],
        ),
    )


def memory_bytes(path: Path = MEMINFO) -> int:
    """The machine's memory."""
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == "MemTotal:":
            return int(words[1]) * 1024
    return 0


def own_address() -> str:
    """The address that packets to elsewhere leave from; the loopback's where there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(ANY_ROUTE)
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])
