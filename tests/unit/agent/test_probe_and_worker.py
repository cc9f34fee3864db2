# SPDX-License-Identifier: Apache-2.0
"""Questions and jobs that may never end: nobody waits for them, and the process can end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from agent.probe import NoAnswerError, Probe
from agent.worker import Worker


def test_an_answer_that_comes_is_given() -> None:
    answers = iter((1, 2))
    probe = Probe("counter", lambda: next(answers))
    assert [probe.ask(), probe.ask()] == [1, 2]


def test_what_the_question_raised_is_raised() -> None:
    def question() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Probe("gone", question).ask()


def test_a_question_without_an_answer_is_asked_once_and_nobody_waits_long() -> None:
    answer, asked = threading.Event(), []

    def question() -> str:
        asked.append(1)
        answer.wait(10.0)
        return "at last"

    probe = Probe("silent", question)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(NoAnswerError, match=r"no answer for \d"):
            probe.ask()
    assert time.monotonic() - started < 3.0
    assert len(asked) == 1
    answer.set()
    assert probe.ask() == "at last"


def test_a_worker_does_one_job_after_the_other_and_tells_what_they_raise() -> None:
    async def story() -> list[object]:
        worker, record = Worker("w"), list[object]()

        def job(number: int) -> int:
            record.append(number)
            return number // (number - 2)

        jobs = [worker.submit(lambda n=n: job(n)) for n in (1, 2, 3)]  # type: ignore[misc]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        worker.stop()
        assert record == [1, 2, 3]
        return [result if isinstance(result, int) else type(result) for result in results]

    assert asyncio.run(story()) == [-1, ZeroDivisionError, 3]


def test_a_process_with_a_stuck_worker_and_a_stuck_probe_ends() -> None:
    program = """if True:
        import asyncio, threading
        from agent.probe import NoAnswerError, Probe
        from agent.worker import Worker

        async def main():
            Worker("stuck").submit(threading.Event().wait)
            await asyncio.sleep(0.1)

        asyncio.run(main())
        try:
            Probe("stuck", threading.Event().wait).ask()
        except NoAnswerError:
            print("no answer")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "no answer\n"
