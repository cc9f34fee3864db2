# SPDX-License-Identifier: Apache-2.0
"""Parts of the lease that another program gives addresses from: Docker, on its default bridge.

`flatmesh docker-options` writes them into `docker.json` in the state directory:

    {"bridge": "kbr0", "parts": ["10.5.1.128/25", "fd05:0:0:1:8000::/65"]}

No pod is given an address of them. A part that is not of the lease (any more) has no effect.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base.paths import DOCKER_FILE
from cni import cidr
from cni.cidr import Cidr
from cni.errors import NOT_AVAILABLE, CniError

if TYPE_CHECKING:
    from cni.config.address_range import PoolRange, RangeSet


def read_set_aside(state_dir: Path) -> tuple[Cidr, ...]:
    """The parts of this host; none where nobody asked for any.

    Raises CniError (50) for a file that can't be read: an address may be Docker's.
    """
    path = state_dir / DOCKER_FILE
    try:
        stat = path.stat()
        return _read_version(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise CniError(NOT_AVAILABLE, f"{path}: {error.strerror}") from None


def without(sets: Sequence[RangeSet], parts: Sequence[Cidr]) -> tuple[RangeSet, ...]:
    """The sets less the parts. Raises CniError (50) when nothing is left of one. Pure."""
    if not parts:
        return tuple(sets)
    left = []
    for ranges in sets:
        for part in parts:
            ranges = tuple(piece for one in ranges for piece in _pieces(one, part))  # noqa: PLW2901
        if not ranges:
            raise CniError(NOT_AVAILABLE, f"all addresses are set aside for Docker ({DOCKER_FILE})")
        left.append(ranges)
    return tuple(left)


def _pieces(one: PoolRange, part: Cidr) -> Iterator[PoolRange]:
    """What is left of a range."""
    if one.family != part.family or one.last < part.value or part.last < one.first:
        yield one
        return
    if one.first < part.value:
        yield one._replace(last=part.value - 1)
    if part.last < one.last:
        yield one._replace(first=part.last + 1)


@functools.lru_cache(maxsize=16)
def _read_version(path: Path, version: tuple[int, int, int]) -> tuple[Cidr, ...]:
    """Read the file once per version of it: it is replaced, never changed in place."""
    del version
    try:
        return tuple(cidr.parse_cidr(text) for text in json.loads(path.read_text())["parts"])
    except (ValueError, KeyError, TypeError, AttributeError):
        mend = "run flatmesh docker-options again, or remove it if Docker is not on kbr0"
        raise CniError(NOT_AVAILABLE, f"{path}: no list of parts in it; {mend}") from None
