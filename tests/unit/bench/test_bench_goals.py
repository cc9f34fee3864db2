# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from bench.suite.figures import BY_NAME, Samples
from bench.suite.goals import ABSENT, GOALS, MET, MISSED, UNCLEAR, Goal, judge
from bench.suite.subjects import ATTACHING, BACKENDS, PATHS, RAW, chosen

FASTER = Goal("a", "tcp-1", "b", 0.9, "test")
SHORTER = Goal("a", "add", "b", 0.5, "test")


def verdict(goal: Goal, ours: list[float | None], theirs: list[float | None]) -> str:
    samples = Samples()
    for value, base in zip(ours, theirs, strict=True):
        samples.add(goal.figure, "a", value)
        samples.add(goal.figure, "b", base)
    (judged,) = judge(samples, [goal])
    return judged.verdict


def test_ratios_are_taken_within_a_round() -> None:
    # the machine became four times slower in the second round; the ratio stayed what it was
    assert verdict(FASTER, [9.5, 2.4, 9.4], [10.0, 2.5, 10.0]) == MET


@pytest.mark.parametrize(
    ("goal", "ours", "expected"),
    [
        (FASTER, [9.0, 9.0, 9.0], MET),
        (FASTER, [8.0, 7.0, 8.9], MISSED),
        (FASTER, [8.0, 7.0, 9.1], UNCLEAR),
        (SHORTER, [5.0, 4.0, 6.0], MET),
        (SHORTER, [6.0, 7.0, 8.0], MISSED),
        (SHORTER, [6.0, 7.0, 5.0], UNCLEAR),
    ],
)
def test_a_goal_is_missed_when_no_round_met_it(
    goal: Goal, ours: list[float | None], expected: str
) -> None:
    assert verdict(goal, ours, [10.0, 10.0, 10.0]) == expected


def test_a_failed_sample_leaves_the_other_rounds() -> None:
    assert verdict(FASTER, [None, 9.5], [10.0, 10.0]) == MET
    assert verdict(FASTER, [None, 9.5], [10.0, None]) == ABSENT
    assert judge(Samples(), [FASTER])[0].verdict == ABSENT


def test_every_goal_compares_subjects_that_are_measured_together() -> None:
    subjects = {one.name: one for one in (*PATHS, *ATTACHING)}
    for goal in GOALS:
        assert goal.figure in BY_NAME
        assert goal.baseline in subjects
        assert goal.subject in subjects
    for backend in BACKENDS:
        assert {RAW, backend, *subjects[backend].baselines} == {o.name for o in chosen([backend])}
    assert chosen([]) == list(PATHS)
