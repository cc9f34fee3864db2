# SPDX-License-Identifier: Apache-2.0
"""Runs another program that has to end within a time, and tells a failure in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from base.errors import FlatmeshError

MAX_WORDS = 200
"""Characters of a program's own message in ours."""


def run_program(
    argv: Sequence[str],
    error: Callable[[str], FlatmeshError],
    *,
    what: str,
    missing: str,
    timeout: float,
    text: str = "",
) -> str:
    """Run it with `text` on stdin; returns what it wrote to stdout.

    Raises what `error` makes of one line: `missing` where the program is not on the PATH, else
    `what` was run, and its own words. `timeout` is in seconds.
    """
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise error(missing) from None
    except subprocess.TimeoutExpired:
        raise error(f"{what} did not end within {timeout:g} s") from None
    except OSError as problem:
        raise error(f"{what}: {problem.strerror}") from None
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())[:MAX_WORDS]
        raise error(f"{what}: {words or f'exit status {done.returncode}'}")
    return done.stdout
