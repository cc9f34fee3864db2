# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import click

from bench.traffic import TrafficEnd

CONVERGENCE_TIMEOUT = 120.0  # seconds for anything to be programmed


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll. Raises ClickException after CONVERGENCE_TIMEOUT."""
    deadline = time.monotonic() + CONVERGENCE_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"not within {CONVERGENCE_TIMEOUT:g} s: {what}")
        time.sleep(0.01)


def wait_for_ping(client: TrafficEnd, address: str, over: str) -> None:
    """Wait until the first answer comes `over` something. Raises as `wait_until`."""
    ping = [*client.enter, "ping", "-qnc1", "-W1", address]
    wait_until(
        lambda: subprocess.run(ping, check=False, capture_output=True).returncode == 0,
        f"a ping over {over}",
    )
