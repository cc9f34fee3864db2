# SPDX-License-Identifier: Apache-2.0
"""Names for unix sockets that fit into an address."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A short name for a path: the address of a socket holds 107 bytes (unix(7))."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
