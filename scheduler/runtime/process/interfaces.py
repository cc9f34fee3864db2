# SPDX-License-Identifier: Apache-2.0
"""What went through a pod's interfaces, read from inside of its network namespace."""

from __future__ import annotations

from pathlib import Path

from scheduler.runtime.protocol import InterfaceStats


def interface_stats(pid: int) -> tuple[InterfaceStats, ...]:
    """Of the network namespace of a process; none where the process is gone."""
    try:
        return parse(Path(f"/proc/{pid}/net/dev").read_text())
    except OSError:
        return ()


def parse(text: str) -> tuple[InterfaceStats, ...]:
    """The table of /proc/net/dev, without the loopback interface."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = list(map(int, rest.split()))
        if len(numbers) >= 12 and name.strip() != "lo":
            found.append(
                InterfaceStats(
                    name.strip(),
                    rx_bytes=numbers[0],
                    rx_packets=numbers[1],
                    rx_dropped=numbers[3],
                    tx_bytes=numbers[8],
                    tx_packets=numbers[9],
                    tx_dropped=numbers[11],
                )
            )
    return tuple(found)
