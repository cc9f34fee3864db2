# SPDX-License-Identifier: Apache-2.0
"""systemd's notification socket (sd_notify(3)): one datagram of `NAME=value` lines at a time.

By hand, because it is one sendto(2): of the packages on PyPI, sdnotify has had no release since
2017 and blocks while systemd is busy; systemd-python and cysystemd need libsystemd, and the former
a compiler.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Self

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class NotifySocket:
    """Where the service manager listens; without one, nothing is sent."""

    address: str | None = None
    """A path, or `@` and a name in the abstract namespace."""
    watchdog: float | None = None
    """Seconds within which the next WATCHDOG=1 is expected; None: it watches nothing."""

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Self:
        """Take it out of the environment, so that processes that we start don't speak for us."""
        address, microseconds, pid = (environment.pop(name, None) for name in VARIABLES)
        watched = (
            address is not None
            and (microseconds or "").isdecimal()
            and pid in (None, str(os.getpid()))
        )
        return cls(address, int(microseconds or 0) / 1e6 if watched else None)

    def tell(self, *lines: str) -> bool:
        """Send lines; says whether they were sent. Never waits: systemd may be stopped or busy."""
        if self.address is None:
            return False
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), name)
            return True
        return False
