# SPDX-License-Identifier: Apache-2.0
"""Waiting times are multiplied on a slow machine."""

from __future__ import annotations

import pytest

from lab.time_factor import VARIABLE, scaled


def test_times_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert scaled(20) == 20
    monkeypatch.setenv(VARIABLE, "2.5")
    assert scaled(20) == 50


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf", "1e9"])
def test_a_factor_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"{VARIABLE}={text}: give a number"):
        scaled(20)
