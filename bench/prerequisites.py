# SPDX-License-Identifier: Apache-2.0
"""What a benchmark needs on this machine, looked for before anything is made."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import click

from base.errors import FlatmeshError, one_line

PACKAGES = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ovs-vswitchd": "openvswitch-switch",
    "ping": "iputils-ping",
    "setpriv": "util-linux",
    "sysctl": "procps",
    "wg": "wireguard-tools",
}
"""Debian's package of each program."""
REFERENCE_DIR = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins are."""


STARTED = time.monotonic()


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
    """Tell on stderr what begins now, so that stdout holds the figures alone."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)


def run(command: click.Command) -> None:
    """Run a benchmark's command; an error that users can mend is one line, as in `flatmesh`.

    SIGTERM ends it as Ctrl-C does, so that what was made is taken down.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        command()
    except (FlatmeshError, OSError) as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
