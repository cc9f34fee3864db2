# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lab up --services`: who answers a client outside, and which address it saw."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6


@pytest.mark.parametrize("backend", ["vxlan", "wireguard"])
def test_every_host_answers_and_the_endpoint_sees_the_client(tmp_path: Path, backend: str) -> None:
    name = f"t{secrets.token_hex(4)}"
    flatmesh = [sys.executable, "-I", "-m", "cli.main", "lab"]
    environment = {**os.environ, "FLATMESH_LAB_DIR": str(tmp_path), "COLUMNS": "200"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*flatmesh, *arguments, "--name", name],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        shown = run("up", "--pods=1", "--ipv6", "--services", f"--backend={backend}")
        for client in (f"{UNDERLAY_IPV4}.1", f"{UNDERLAY_IPV6}:1"):
            rows = [line.split() for line in shown.splitlines() if client in line.split()]
            assert len(rows) == 3, shown
        assert "curl" in shown
    finally:
        run("down")
    assert not (tmp_path / name).exists()
