# SPDX-License-Identifier: Apache-2.0
"""Commands to a running ovs-vswitchd over its control socket, as ovs-appctl(8) sends them."""

from __future__ import annotations

import errno
from pathlib import Path

from ovs_mesh.clients.jsonrpc import RefusedError, request
from ovs_mesh.errors import OvsError

APPCTL_TIMEOUT = 5.0  # seconds for one command


class AppctlError(OvsError):
    """ovs-vswitchd isn't there, or refuses a command."""


def appctl(rundir: Path, command: str, *arguments: str) -> str:
    """Run one command in the ovs-vswitchd of a run directory; returns its answer.

    Raises AppctlError, with errno ETIMEDOUT when no answer comes within APPCTL_TIMEOUT.
    """
    pidfile = rundir / "ovs-vswitchd.pid"
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        raise AppctlError(f"ovs-vswitchd is not running: {pidfile} names no process") from None
    try:
        path = str(rundir / f"ovs-vswitchd.{pid}.ctl")
        return str(request(path, command, arguments, APPCTL_TIMEOUT))
    except RefusedError as error:
        words = " ".join((command, *arguments))
        raise AppctlError(error.errno, f"ovs-vswitchd: {words}: {error}") from None
    except OvsError as error:
        if error.errno == errno.ETIMEDOUT:
            raise AppctlError(
                error.errno, f"ovs-vswitchd does not answer on {path} in {APPCTL_TIMEOUT:g} s"
            ) from None
        raise AppctlError(error.errno, f"ovs-vswitchd does not answer on {path}") from None
