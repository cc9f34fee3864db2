# SPDX-License-Identifier: Apache-2.0
"""Takes the elements of deleted pods out of the source guard, many in one transaction.

nftables waits for an RCU grace period in each transaction that deletes elements, some 13 ms, in
which no other one is begun: 50 DELs at once took half a second. A DEL that is served here leaves it
to one thread. The elements are harmless meanwhile: their interface is gone. What a process that is
killed has not done, the daemon does at its start.
"""

from __future__ import annotations

import logging
import queue
import socket
import time

from base.errors import FlatmeshError
from cni.pod import source_guard
from cni.pod.source_guard import GuardedPod

GATHER_INTERVAL = 1.0
"""Seconds in which DELs come together: an ADD waits for a transaction that is under way."""

log = logging.getLogger("cni")


class GuardRemovals:
    """A queue and what its thread does. `add` is for any thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[GuardedPod | None] = queue.SimpleQueue()

    def add(self, pod: GuardedPod) -> None:
        """Remove a pod's elements soon."""
        self._queue.put(pod)

    def run(self) -> None:
        """Remove what is added, until `close`; then what is left."""
        closed = False
        while not closed:
            pods = [self._queue.get()]
            if pods[0] is not None:
                time.sleep(GATHER_INTERVAL)
            while not self._queue.empty():
                pods.append(self._queue.get())
            closed = None in pods
            there = {name for _, name in socket.if_nameindex()}
            # one whose interface is there again was added anew meanwhile: the elements are its own
            gone = [pod for pod in pods if pod is not None and pod.host_name not in there]
            try:
                source_guard.remove(*gone)
            except (FlatmeshError, OSError) as error:
                log.warning("source guard of deleted pods: %s; the daemon tries again", error)

    def close(self) -> None:
        """End `run`."""
        self._queue.put(None)
