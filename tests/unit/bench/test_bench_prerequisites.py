# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench
from bench.commands import bench_group

WITHOUT_PROGRAMS = {"netlink_libraries"}
(ROOM,) = map(Path, bench.__path__)
MODULES = sorted(path.stem for path in ROOM.glob("*.py") if "\n    run(main)\n" in path.read_text())


def test_all_benchmarks_are_found() -> None:
    assert {"scale", "throughput", "udp", "reliability"} <= set(MODULES)
    parts = {path.stem for path in ROOM.glob("*.py") if "\n    main()\n" in path.read_text()}
    assert parts == {"small_packets", "connection_rate"}  # of others


@pytest.mark.parametrize("name", [*MODULES, "ovs.__main__"])
def test_a_missing_program_is_told_in_one_line_before_anything_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in WITHOUT_PROGRAMS:
        pytest.skip("it uses none")
    module = importlib.import_module(f"bench.{name}")
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(module.main, [])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "not found; on Debian: apt-get install" in done.output


def test_flatmesh_bench_tells_it_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(bench_group, [])
    assert done.exit_code == 1
    assert "iperf3" in done.output
    assert done.output.count("\n") == 1
