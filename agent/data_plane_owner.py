# SPDX-License-Identifier: Apache-2.0
"""The data plane of the current backend, shared by the two controllers that drive it.

Both run in one worker thread, so that the data plane is used by one at a time. When the cluster
config names another backend, the data plane of the old one is cleaned up before the new one's is
made. If that fails, because the old one's program is stopped for example, the new one is made all
the same, and the cleaning is tried again at each apply of the data plane controller.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.protocol import Backend, DataPlane

log = logging.getLogger("agent.data_plane")


def ignore_changes() -> None:
    """Nobody follows what others do to the data plane."""


@dataclass(slots=True)
class DataPlaneOwner:
    """At most one data plane, and those of earlier backends that are not cleaned up yet."""

    on_change: Callable[[], None] = ignore_changes
    """Called from any thread when another program changed what the data plane made."""
    plane: DataPlane | None = None
    """May be read from any thread."""
    _backend: Backend | None = None
    _made: bool = False
    _earlier: list[DataPlane] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def empty(self) -> bool:
        """Whether the backend is known to have no data plane, and none is left to clean up."""
        return self._made and self.plane is None and not self._earlier

    def without_plane(self, backend: Backend) -> bool:
        """Whether this backend is known to have no data plane."""
        return self._made and self._backend is backend and self.plane is None

    def of(self, backend: Backend) -> DataPlane | None:
        """The data plane of this backend; None for one without. Raises OSError."""
        with self._lock:
            if self._made and self._backend is backend:
                return self.plane
            if self.plane is not None and self._backend is not None:
                self._leave(self.plane, self._backend, backend)
            self.plane, self._made = None, False
            plane = backend.data_plane()
            if plane is not None:
                plane.watch(self.on_change)
            self.plane, self._backend, self._made = plane, backend, True
            return plane

    def _leave(self, plane: DataPlane, old: Backend, new: Backend) -> None:
        if old.name == new.name and plane.keeps_state_outside:
            plane.close()
            return
        try:
            plane.cleanup()
        except OSError as problem:
            if old.name == new.name:
                raise  # both use the same devices: the new one can't be made beside it
            log.warning("cleaning up after backend %s: %s", old.name, problem)
            self._earlier.append(plane)

    def clean_up_earlier(self) -> None:
        """Clean up after earlier backends. Raises OSError when one can't be now."""
        while self._earlier:
            self._earlier[-1].cleanup()
            self._earlier.pop()

    def close(self) -> None:
        """Close sockets; the data plane stays as it is."""
        for plane in (*self._earlier, self.plane):
            if plane is not None:
                plane.close()
