"""How many calls are worked off at the same moment.

Theory of operation: Python runs one thread at a time, and a thread that comes back from the
kernel may wait 5 ms until a busy one lets go. Thirty threads in the middle of an ADD are
therefore slower than one. So the server's workers, of which there are many because delegated
plugins are waited for, take a turn for their own work and give it up while they wait for
somebody else. COUNT of 2 is measured: one in the kernel, one in the interpreter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

COUNT = 2


class Turns:
    """Turns to be taken; an executable without a daemon need not take any."""

    def __init__(self, count: int = COUNT) -> None:
        self._free = threading.Semaphore(count)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have a turn inside the block."""
        with self._free:
            yield

    @contextlib.contextmanager
    def given_up(self) -> Iterator[None]:
        """Let somebody else have our turn inside the block, and have one again after it."""
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()
