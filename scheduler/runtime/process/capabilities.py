# SPDX-License-Identifier: Apache-2.0
"""What a container's root may do: Docker's default set without MKNOD, changed by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scheduler.runtime.errors import RuntimeCallError

# Bit of each capability, as in linux/capability.h: the place in this list.
NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
# A container has no cgroup of devices here: without MKNOD it can't reach the host's disks.
DEFAULT = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "AUDIT_WRITE", "SETFCAP"),
)
LAST = Path("/proc/sys/kernel/cap_last_cap")


def mask(add: Iterable[str], drop: Iterable[str]) -> int:
    """The capabilities that are left, one bit each; raises RuntimeCallError for an unknown name."""
    kept = set(DEFAULT)
    added, dropped = list(map(_name, add)), list(map(_name, drop))
    if "ALL" in added:
        kept = set(NAMES)
    if "ALL" in dropped:
        kept = set()
    kept |= set(added) - {"ALL"}
    kept -= set(dropped) - {"ALL"}
    return sum(1 << NAMES.index(name) for name in kept)


def _name(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in NAMES:
        raise RuntimeCallError(f"capability {text!r}: there is no such capability")
    return name


def known_to_kernel() -> int:
    """How many capabilities this kernel has."""
    try:
        return int(LAST.read_text()) + 1
    except (OSError, ValueError):
        return len(NAMES)
