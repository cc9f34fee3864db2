# SPDX-License-Identifier: Apache-2.0
"""Asks a question whose answer may not come, so that whoever wants to know never waits for long.

A data plane that is asked how it is asks another program, which may be stopped. /readyz and
/metrics must answer at once all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from base.errors import FlatmeshError

ANSWER_TIMEOUT = 0.5
"""Seconds that `ask` waits; a program that runs answers within milliseconds."""

Answer = TypeVar("Answer")


class NoAnswerError(FlatmeshError):
    """The question was asked some time ago, and the answer has not come yet."""


class Probe(Generic[Answer]):
    """One question, asked in a daemon thread. Used from any thread.

    While an answer is outstanding nobody asks again, so that threads can't pile up.
    """

    def __init__(self, name: str, question: Callable[[], Answer]) -> None:
        self._name = name
        self._question = question
        self._lock = threading.Lock()
        self._answer: Future[Answer] | None = None
        self._asked = 0.0

    def ask(self) -> Answer:
        """Ask, or wait for the answer to what was asked before.

        Raises NoAnswerError when none comes within ANSWER_TIMEOUT, and what the question raised.
        """
        with self._lock:
            answer = self._answer
            if answer is None:
                self._answer = answer = Future()
                self._asked = time.monotonic()
                thread = threading.Thread(
                    target=self._work, args=(answer,), name=self._name, daemon=True
                )
                thread.start()
            asked = self._asked
        if wait([answer], ANSWER_TIMEOUT).not_done:
            raise NoAnswerError(f"no answer for {time.monotonic() - asked:.1f} s")
        return answer.result()

    def _work(self, answer: Future[Answer]) -> None:
        try:
            result = self._question()
        except BaseException as problem:  # noqa: BLE001 - it belongs to whoever asked
            self._done()
            answer.set_exception(problem)
        else:
            self._done()
            answer.set_result(result)

    def _done(self) -> None:
        """The next `ask` asks anew."""
        with self._lock:
            self._answer = None
