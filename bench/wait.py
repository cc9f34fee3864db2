# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

CONVERGENCE_TIMEOUT = 120.0  # seconds for anything to be programmed


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll. Raises ClickException after CONVERGENCE_TIMEOUT."""
    deadline = time.monotonic() + CONVERGENCE_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"not within {CONVERGENCE_TIMEOUT:g} s: {what}")
        time.sleep(0.01)
