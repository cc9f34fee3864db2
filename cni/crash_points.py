"""Where tests make us die: each step of ADD and DEL after which the disk or the kernel differs.

With FLATMESH_CRASH_AT=<name> in the environment of the daemon or the executable, the process
is killed (SIGKILL) when it reaches that point: no cleanup code runs, as in a power cut.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "FLATMESH_CRASH_AT"

ADD = (
    "add-recorded",  # the intent and its addresses are on disk
    "add-delegated",  # the delegated IPAM plugin has given addresses
    "add-bridge",  # the bridge has its gateway address
    "add-cable",  # the veth is in both namespaces
    "add-configured",  # the pod has addresses and routes
    "add-firewalled",  # nftables knows the pod
    "add-ready",  # the record says so
)
DELETE = (
    "del-found",  # the record was read
    "del-unfirewalled",
    "del-unplugged",  # the veth is gone
    "del-delegated",  # the delegated IPAM plugin has taken its addresses back
    "del-forgotten",  # the record is gone
)


def reach(name: str) -> None:
    """Die here, if a test wants it."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
