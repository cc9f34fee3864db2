"""Talk to a running ovs-vswitchd over its control socket, as ovs-appctl(8) does."""

from __future__ import annotations

from pathlib import Path

import ovs.unixctl.client


class AppctlError(OSError):
    """ovs-vswitchd isn't there, or refused; the message is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


def appctl(rundir: Path, command: str, *arguments: str) -> str:
    """Run one command; returns what it answers. Raises AppctlError."""
    pidfile = rundir / "ovs-vswitchd.pid"
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        raise AppctlError(f"ovs-vswitchd is not running: {pidfile} names no process") from None
    path = str(rundir / f"ovs-vswitchd.{pid}.ctl")
    error, client = ovs.unixctl.client.UnixctlClient.create(path)
    if error:
        raise AppctlError(f"ovs-vswitchd does not answer on {path}")
    try:
        error, refusal, answer = client.transact(command, list(arguments))
    finally:
        client.close()
    if error or refusal:
        reason = (refusal or "no answer").strip()
        raise AppctlError(f"ovs-vswitchd: {command} {' '.join(arguments)}: {reason}")
    return str(answer)
