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


def slots_for(processors: int) -> int:
    """How many calls are worked on at once. Measured with bench.cni_latency, 50 ADDs at once.

    One thread in the kernel and one in the interpreter; on two processors the executables that
    runtimes start need the other one, and a second thread makes the calls 9 % slower.
    """
    return 1 if processors <= FEW_PROCESSORS else 2


class ConcurrencyLimit:
    """A fixed number of slots, shared by the server's workers.

    A process that answers one call takes no slot; `released` is harmless there.
    """

    def __init__(self, slots: int | None = None) -> None:
        """Make it; `slots` None: as many as suit the processors that this process may use."""
        self._free = threading.Semaphore(slots or slots_for(len(os.sched_getaffinity(0))))

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot inside the block; waits until one is free."""
        with self._free:
            yield

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Release the caller's slot inside the block, and wait for one after it."""
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()
