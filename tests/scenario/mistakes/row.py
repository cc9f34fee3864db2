# SPDX-License-Identifier: Apache-2.0
"""One ordinary mistake, and the line that it must be answered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mistake:
    """What is typed, and what must be said within two seconds."""

    name: str
    command: str
    """As typed in a shell, with `{NAME}`s of `tests.scenario.mistakes.machine.Machine.words`."""
    expected: str
    """Part of one line of the answer; `{NAME}`s as above."""
    status: int | None = 1
    """The exit status; None: it goes on running, and tries again."""
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    only_line: bool = True
    """Whether it is the only line; usage errors have click's two lines before it."""
