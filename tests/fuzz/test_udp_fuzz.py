# SPDX-License-Identifier: Apache-2.0
"""The fuzzer of the udp data plane for some seconds; tests/fuzz/run is the long form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent
LONG = bool(os.environ.get("FLATMESH_LONG"))
RUNS = 10_000_000 if LONG else 60_000


def compiler_runtime() -> bool:
    """Whether clang is here, with libFuzzer."""
    if shutil.which("clang") is None:
        return False
    done = subprocess.run(
        ["clang", "-print-runtime-dir"], capture_output=True, text=True, check=False
    )
    return bool(list(Path(done.stdout.strip()).glob("libclang_rt.fuzzer-*.a")))


@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.skipif(
    not compiler_runtime(), reason="needs libFuzzer: apt install clang libclang-rt-14-dev"
)
def test_no_input_breaks_the_packet_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [FUZZ / "run", str(RUNS), tmp_path],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stat::number_of_executed_units: {RUNS}" in done.stderr
