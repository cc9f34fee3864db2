# SPDX-License-Identifier: Apache-2.0
"""What a run was taken on and with: versions, processors, kernel, programs."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROGRAMS = {
    "iperf3": ("iperf3", "--version"),
    "ovs-vswitchd": ("ovs-vswitchd", "--version"),
    "wireguard-go": ("wireguard-go", "--version"),
    "flanneld": ("flanneld", "--version"),
    "etcd": ("etcd", "--version"),
    "iproute2": ("ip", "-V"),
}
TIMEOUT = 5.0  # seconds for a program to tell its version


def flatmesh_version() -> str:
    """Return the distribution's version."""
    try:
        return version("flatmesh")
    except PackageNotFoundError:
        return "unknown"


def machine() -> dict[str, Any]:
    """Return what tells this machine from another, without its name."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "processor": _field("/proc/cpuinfo", "model name"),
        "memory_mib": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        "system": _field("/etc/os-release", "PRETTY_NAME", "="),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def programs() -> dict[str, str]:
    """Return the versions of the programs that take part, where they are installed."""
    found = {name: _first_line(*argv) for name, argv in PROGRAMS.items()}
    return {name: line for name, line in found.items() if line}


def _field(file: str, name: str, separator: str = ":") -> str | None:
    try:
        lines = Path(file).read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip().strip('"')
    return None


def _first_line(*argv: str) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines and not done.returncode else None
