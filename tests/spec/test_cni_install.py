# SPDX-License-Identifier: Apache-2.0
"""Installing the executables, and removing them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cni.install

VERSION = {"CNI_COMMAND": "VERSION"}


def test_install_is_repeatable_and_uninstall_takes_only_ours(tmp_path: Path) -> None:
    (tmp_path / "flannel").write_text("#!/bin/sh\nexec the real one\n")
    lines = cni.install.install(tmp_path, sys.executable)
    assert sum("left alone" in line for line in lines) == 1
    before = (tmp_path / "flatmesh").stat().st_ino
    cni.install.install(tmp_path, sys.executable)
    assert (tmp_path / "flatmesh").stat().st_ino != before  # replaced, not written into
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flannel", "flatmesh", "flatmesh-ipam"]
    cni.install.uninstall(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["flannel"]


def test_an_executable_in_use_can_be_replaced(tmp_path: Path) -> None:
    cni.install.install(tmp_path, sys.executable)
    running = subprocess.Popen(
        [tmp_path / "flatmesh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=VERSION
    )
    cni.install.install(tmp_path, sys.executable)
    out, _ = running.communicate(b"{}", 60)
    assert json.loads(out)["supportedVersions"]


def test_a_fallback_that_is_gone_is_one_line(tmp_path: Path) -> None:
    cni.install.install(tmp_path, "/nowhere/bin/python")
    done = subprocess.run(
        [tmp_path / "flatmesh"],
        input=b"{}",
        env={**VERSION, "FLATMESH_SOCKET": "/nowhere.sock"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5
    assert "/nowhere/bin/python" in json.loads(done.stdout)["msg"]


def test_an_install_directory_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "cni.install", "--bin-dir", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
