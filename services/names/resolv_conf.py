# SPDX-License-Identifier: Apache-2.0
"""The host's resolvers, from resolv.conf(5); the file is read again when it was changed."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

CHECK_INTERVAL = 1.0  # seconds between two looks at the file
MAX_SERVERS = 3  # MAXNS, resolv.conf(5)
MAX_SIZE = 65536  # bytes that are read


def nameservers(text: str) -> list[str]:
    """The servers, as the C library reads them. What is no address is left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        if words[1] not in found:
            found.append(words[1])
    return found[:MAX_SERVERS]


@dataclass(slots=True)
class ResolvConf:
    """One file. For one thread."""

    path: Path
    own: Collection[str] = ()
    """Addresses that we answer at ourselves: to ask there would be a loop."""
    _servers: list[str] = field(default_factory=list)
    _version: tuple[int, int, int] | None = None
    _looked: float | None = None

    def servers(self) -> list[str]:
        """The servers to ask, in order."""
        now = time.monotonic()
        if self._looked is None or now > self._looked + CHECK_INTERVAL:
            self._looked = now
            self._read()
        return [one for one in self._servers if one not in self.own]

    def _read(self) -> None:
        try:
            stat = self.path.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if version != self._version:
                with self.path.open("rb") as file:
                    text = file.read(MAX_SIZE).decode(errors="replace")
                self._servers, self._version = nameservers(text), version
        except OSError:  # being replaced, or away: the servers before are better than none
            self._version = None
