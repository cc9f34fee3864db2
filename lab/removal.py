# SPDX-License-Identifier: Apache-2.0
"""Removes the namespaces of a group of hosts, with what runs in them."""

from __future__ import annotations

from lab import hosts, processes
from lab.hosts import Names
from lab.processes import TERM_GRACE


def remove_namespaces(names: Names, *, grace: float = TERM_GRACE) -> None:
    """Remove the namespaces of these names and what runs in them, also after a killed run.

    `grace` is how many seconds processes may take to end by themselves.
    """
    present = names.present()
    processes.stop(processes.in_namespaces(present), grace=grace)
    for name in present:
        hosts.remove(name)
