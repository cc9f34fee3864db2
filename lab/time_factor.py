# SPDX-License-Identifier: Apache-2.0
"""Waiting times on a slow machine, such as an emulated one.

Labs and tests give up after a time that is generous on a machine of today. Where all is slower,
FLATMESH_TIME_FACTOR multiplies these times; it changes nothing in the daemon.
"""

from __future__ import annotations

import os

VARIABLE = "FLATMESH_TIME_FACTOR"


def scaled(seconds: float) -> float:
    """`seconds` on this machine. Raises ValueError: the variable is no number above 0."""
    text = os.environ.get(VARIABLE) or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1000:
        raise ValueError(f"{VARIABLE}={text}: give a number above 0, below 1000")
    return seconds * factor
