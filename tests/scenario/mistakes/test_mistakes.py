# SPDX-License-Identifier: Apache-2.0
"""Ordinary mistakes are answered by one line, what, where and the mend, within two seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.time_factor import scaled
from tests.scenario.mistakes import command_rows, daemon_rows, etcd_rows, install_rows, plugin_rows
from tests.scenario.mistakes.machine import Machine, machine
from tests.scenario.mistakes.row import Mistake

ROWS = (
    *(*etcd_rows.ROWS, *daemon_rows.ROWS, *command_rows.ROWS),
    *(*plugin_rows.ROWS, *install_rows.ROWS),
)
LIMIT = 2.0
"""Seconds to the answer."""
TRIES = 4
"""The fastest counts: the machine that runs the tests may be busy."""
START = 0.5
"""Seconds in which `flatmesh --version` answers on a machine that is not busy."""
WORK = 3
"""How many times as much as that a mistake may have to compute."""
VERSION = Mistake("start", "flatmesh --version", "", status=0)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("mistakes")) as made:
        yield made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_is_answered_by_one_line_in_time(here: Machine, row: Mistake) -> None:
    words = here.filled(row.expected)
    answer, seconds = here.answer(row, words), 0.0
    for _ in range(TRIES):
        if (seconds := answer.seconds) <= scaled(LIMIT):
            break
        busy = max(here.answer(VERSION, "").seconds - scaled(START), 0)
        if (seconds := seconds - WORK * busy) <= scaled(LIMIT):
            break
        answer = here.answer(row, words)
    assert "Traceback" not in answer.text
    assert any(words in line for line in answer.text.splitlines()), answer.text
    if row.status is not None:
        assert answer.status == row.status, answer.text
    if row.status is not None and row.only_line:
        assert len(answer.text.splitlines()) == 1, answer.text
    assert seconds <= scaled(LIMIT), answer
