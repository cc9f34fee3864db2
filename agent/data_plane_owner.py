"""The data plane of the current backend, shared by the two controllers that drive it.

Both run in one worker thread, so that the data plane is used by one at a time. When the cluster
config names another backend, the data plane of the old one is cleaned up before the new one's is
made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.protocol import Backend, DataPlane


def ignore_changes() -> None:
    """Nobody follows what others do to the data plane."""


@dataclass(slots=True)
class DataPlaneOwner:
    """At most one data plane."""

    on_change: Callable[[], None] = ignore_changes
    """Called from any thread when another program changed what the data plane made."""
    plane: DataPlane | None = None
    """May be read from any thread."""
    _backend: Backend | None = None
    _made: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, backend: Backend) -> DataPlane | None:
        """The data plane of this backend; None for one without. Raises OSError."""
        with self._lock:
            if self._made and self._backend is backend:
                return self.plane
            if self.plane is not None and self._backend is not None:
                if self._backend.name == backend.name and self.plane.keeps_state_outside:
                    self.plane.close()
                else:
                    self.plane.cleanup()
            self.plane, self._made = None, False
            plane = backend.data_plane()
            if plane is not None:
                plane.watch(self.on_change)
            self.plane, self._backend, self._made = plane, backend, True
            return plane

    def close(self) -> None:
        """Let go; packets flow on."""
        if self.plane is not None:
            self.plane.close()
