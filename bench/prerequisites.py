"""What a benchmark needs on this machine, looked for before anything is made."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

PACKAGES = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ovs-vswitchd": "openvswitch-switch",
    "ping": "iputils-ping",
    "sysctl": "procps",
    "wg": "wireguard-tools",
}
"""Debian's package of each program."""
REFERENCE_DIR = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins are."""


def require(*programs: str, root: bool = True) -> None:
    """Refuse in one line when a program or root's rights are missing. Raises ClickException."""
    if root and os.geteuid() != 0:
        raise click.ClickException(
            "benchmarks make network namespaces, which needs root: run it with sudo"
        )
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = sorted({PACKAGES.get(program, program) for program in missing})
        raise click.ClickException(
            f"{', '.join(missing)} not found; on Debian: apt-get install {' '.join(packages)}"
        )


def require_reference_plugins() -> None:
    """Refuse in one line when Debian's CNI plugins are missing. Raises ClickException."""
    if not (REFERENCE_DIR / "bridge").exists():
        raise click.ClickException(
            f"no {REFERENCE_DIR}/bridge; on Debian: apt-get install containernetworking-plugins"
        )


def progress(text: str) -> None:
    """Tell on stderr what is done now, so that stdout holds the figures alone."""
    print(text, file=sys.stderr, flush=True)
