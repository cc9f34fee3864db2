# SPDX-License-Identifier: Apache-2.0
"""Several questions asked at once, none of which may keep the answer waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from base.errors import one_line


def together(
    questions: Mapping[str, Callable[[], Any]], timeout: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """The answers that came within `timeout` seconds, and for the rest why there is none.

    Each question is asked in a daemon thread of its own, and one that hangs ends whenever it does.
    """
    answers: dict[str, Any] = {}
    problems: dict[str, str] = {}

    def ask(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = question()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other answers are told
            problems[name] = one_line(error)

    threads = [
        threading.Thread(target=ask, args=item, name=f"status: {item[0]}", daemon=True)
        for item in questions.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    found, failed = answers.copy(), problems.copy()
    for name in questions:
        if name not in found and name not in failed:
            failed[name] = f"no answer within {timeout:g} s"
    return found, failed
