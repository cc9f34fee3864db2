# SPDX-License-Identifier: Apache-2.0
"""Named steps of ADD and DEL at which a test can kill this process.

With FLATMESH_CRASH_AT=NAME in the environment of the daemon or the executable, the process
kills itself with SIGKILL when it reaches the step NAME: no cleanup code runs, as in a power
cut. There is a step after every change on the disk or in the kernel.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "FLATMESH_CRASH_AT"

ADD = (
    "add-recorded",  # the record of the attachment and its addresses are on disk
    "add-delegated",  # the delegated IPAM plugin has given addresses
    "add-bridge",  # the bridge has its gateway address
    "add-veth",  # the veth pair is in both namespaces
    "add-guarded",  # nftables knows what the pod may send
    "add-configured",  # the pod's interface has its addresses and routes
    "add-firewalled",  # nftables holds the pod's elements
    "add-ready",  # the record says `ready`
)
DELETE = (
    "del-found",  # the record was read
    "del-unfirewalled",  # nftables holds nothing of the pod
    "del-detached",  # the veth pair is gone
    "del-delegated",  # the delegated IPAM plugin has taken its addresses back
    "del-forgotten",  # the record is gone
)


def crash_point(name: str) -> None:
    """Kill this process if the environment names this step."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
