# SPDX-License-Identifier: Apache-2.0
"""The alerts name metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from docs.alerts import ALERTS

METRICS = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def test_alerts_name_metrics_that_there_are() -> None:
    there = set(re.findall(r"^\| `(flatmesh_\w+)`", METRICS.read_text(), re.MULTILINE))
    named = {
        name for expression, _, _ in ALERTS for name in re.findall(r"flatmesh_\w+", expression)
    }
    assert len(named) > 5
    assert named - there == set()
