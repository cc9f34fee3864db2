# SPDX-License-Identifier: Apache-2.0
"""Sysctls of a network namespace.

/proc/sys/net shows the namespace of the thread that opens a file below it, so files are
opened in a thread inside the namespace; what is below other directories is the host's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from hostnet.netns import NetnsRef, run_in

ROOT = "/proc/sys"
LONGEST = 4096
"""Bytes of a value, at most."""


class Sysctl(NamedTuple):
    """A sysctl in this network namespace, by its path below /proc/sys."""

    path: str
    """`net/ipv4/ip_forward`."""
    value: str

    @property
    def key(self) -> str:
        """The path."""
        return self.path


def read(wanted: Iterable[Sysctl], netns: NetnsRef | None = None) -> list[Sysctl]:
    """The values at the paths of `wanted`; paths that aren't there are left out."""
    paths = [one.path for one in wanted]
    return run_in(netns, lambda: _read(paths)) if paths else []


def write(wanted: Iterable[Sysctl], netns: NetnsRef | None = None) -> dict[Sysctl, OSError]:
    """Set all, past errors; returns the errors."""
    values = list(wanted)
    return run_in(netns, lambda: _write(values)) if values else {}


def line(one: Sysctl) -> str:
    """`sysctl -w net.ipv4.ip_forward=1`; a path keeps its slashes where a name has dots."""
    path = one.path if "." in one.path else one.path.replace("/", ".")
    return f"sysctl -w {path}={one.value}"


def _read(paths: list[str]) -> list[Sysctl]:
    found = []
    for path in paths:
        try:
            descriptor = os.open(f"{ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            text = os.read(descriptor, LONGEST)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        found.append(Sysctl(path, " ".join(text.decode(errors="replace").split())))
    return found


def _write(values: list[Sysctl]) -> dict[Sysctl, OSError]:
    """Each with three system calls: Path.write_text makes nine, and an ADD waits for these."""
    errors = {}
    for one in values:
        try:
            descriptor = os.open(f"{ROOT}/{one.path}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(descriptor, one.value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            errors[one] = error
    return errors
