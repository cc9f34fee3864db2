# SPDX-License-Identifier: Apache-2.0
"""How many CNI calls are worked on at the same moment.

Python runs one thread at a time, and a thread that returns from a system call may wait 5 ms
until a busy thread releases the interpreter. Thirty threads in the middle of an ADD are
therefore slower than one. The server has many workers all the same, because calls wait for
delegated plugins and for locks. So a worker takes a slot for its own work, and releases it
while it waits for somebody else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

FEW_PROCESSORS = 2
SLOT_TIMEOUT = 2.0
"""Seconds: many times what a call takes."""


def slots_for(processors: int) -> int:
    """How many calls are worked on at once. Measured with bench.cni_latency, 50 ADDs at once.

    One thread in the kernel and one in the interpreter; on two processors the executables that
    runtimes start need the other one, and a second thread makes the calls 9 % slower.
    """
    return 1 if processors <= FEW_PROCESSORS else 2


class ConcurrencyLimit:
    """A fixed number of slots, shared by the server's workers.

    A process that answers one call takes no slot; `released` is harmless there. A call that hangs
    keeps its slot, so nobody waits for one longer than `timeout` seconds: then it goes on without.
    """

    def __init__(self, slots: int | None = None, timeout: float = SLOT_TIMEOUT) -> None:
        """Make it; `slots` None: as many as suit the processors that this process may use."""
        self._free = threading.Semaphore(slots or slots_for(len(os.sched_getaffinity(0))))
        self._timeout = timeout
        self._thread = threading.local()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot inside the block, if one is free in time."""
        self._take()
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Release the caller's slot inside the block, and take one after it."""
        held = self._give()
        try:
            yield
        finally:
            if held:
                self._take()

    def _take(self) -> None:
        self._thread.holds = self._free.acquire(timeout=self._timeout)

    def _give(self) -> bool:
        """Release this thread's slot, if it has one; says whether it took part."""
        held: bool | None = getattr(self._thread, "holds", None)
        if held:
            self._free.release()
        self._thread.holds = None
        return held is not None
