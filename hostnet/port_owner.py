# SPDX-License-Identifier: Apache-2.0
"""Which program, or which device of the kernel, has a TCP or UDP port: for messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LISTEN_STATE = {"tcp": "0A"}
"""State of a TCP socket that listens, include/net/tcp_states.h; UDP sockets have none."""


def port_owner(protocol: str, port: int) -> str:
    """Who has a port (`tcp`, `udp`) in the caller's network namespace, as far as can be told."""
    inodes = set(_inodes(protocol, port))
    if inodes == {"0"}:
        return "a device of the kernel's, such as a VXLAN or WireGuard device of another program"
    wanted = {f"socket:[{inode}]" for inode in inodes - {"0"}}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        try:
            descriptors = list((process / "fd").iterdir())
            name = (process / "comm").read_text().strip()
        except OSError:
            continue  # it has ended
        if any(_target(one) in wanted for one in descriptors):
            return f"{name} (pid {process.name})"
    return "a program that can't be told"


def _inodes(protocol: str, port: int) -> Iterator[str]:
    for name in (protocol, f"{protocol}6"):
        try:
            lines = Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            listens = words[3] == LISTEN_STATE.get(protocol, words[3])
            if listens and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
