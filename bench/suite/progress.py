# SPDX-License-Identifier: Apache-2.0
"""What a run does now, on stderr.

On a terminal one line that is rewritten, with the share done and the time since the start;
elsewhere a line per step with the time since the start, so that a log shows where it stands.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class RunProgress:
    """Told each step. Use as a context manager; not for use by several threads at once."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._total = self._done = 0
        console = Console(stderr=True, highlight=False)
        self._bar = None
        if console.is_terminal:
            self._bar = Progress(
                TimeElapsedColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:3.0f} % {task.description}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def expect(self, steps: int) -> None:
        """Say how many `step` there will be, from now."""
        self._total, self._done = steps, 0
        if self._bar is not None:
            self._bar.update(self._task, total=steps, completed=0)

    def tell(self, text: str) -> None:
        """Say what begins now, which is none of the expected steps."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(f"{self.seconds:6.1f} s  {text}", file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        """Say which of the expected steps begins now."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done - 1)
            self.tell(text)
        else:
            self.tell(f"{self._done:3d} of {self._total}  {text}")

    def __enter__(self) -> Self:
        """Begin to show it."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End showing it."""
        if self._bar is not None:
            self._bar.stop()
