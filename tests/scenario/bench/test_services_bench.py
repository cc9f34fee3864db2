# SPDX-License-Identifier: Apache-2.0
"""`bench.services` runs to its end with tiny numbers. Never the figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab.time_factor import scaled

TIMEOUT = 120.0  # seconds; 25 on a busy machine


def test_every_figure_of_services_is_measured(tmp_path: Path) -> None:
    few = ("--services=2", "--rounds=1", "--seconds=1", "--changes=4")
    found = tmp_path / "services.json"
    done = subprocess.run(
        [sys.executable, "-I", "-m", "bench.services", *few, f"--json={found}"],
        capture_output=True,
        text=True,
        timeout=scaled(TIMEOUT),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    rows += json.loads(found.with_suffix(".changes.json").read_text())["rows"]
    figures = {row["what"].partition(",")[0] for row in rows if row["value"] > 0}
    wanted = {"connections", "one connection", "ingress", "cold start", "one change", "memory"}
    assert figures == wanted
