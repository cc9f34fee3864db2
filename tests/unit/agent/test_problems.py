# SPDX-License-Identifier: Apache-2.0
"""A problem that lasts is logged once, until it changes or comes back."""

from __future__ import annotations

import logging

import pytest

from agent.problems import Problems


def test_a_problem_is_logged_once_until_it_changes_or_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = Problems(logging.getLogger("problems"))
    for text in ("no etcd", "no etcd", "no config", "no config"):
        problems.report("inputs", text)
    assert caplog.messages == ["no etcd", "no config"]
    problems.clear("inputs")
    assert problems.text("inputs") is None
    problems.report("inputs", "no config")
    assert caplog.messages == ["no etcd", "no config", "no config"]


def test_problems_below_a_prefix_are_replaced_as_a_whole() -> None:
    problems = Problems(logging.getLogger("problems"))
    problems.report("other", "stays")
    problems.replace("kernel ", {"a": "a failed", "b": "b failed"})
    problems.replace("kernel ", {"b": "b failed"})
    assert problems.first(("kernel a", "kernel b", "other")) == "b failed"
    assert problems.first(("kernel a", "other")) == "stays"
