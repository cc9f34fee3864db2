"""deploy/install as an operator calls it: what is on a production host, and what --lab adds."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
INSTALL_TIMEOUT = 240.0  # seconds; pip fetches what builds the wheel
LAB_ONLY = {"bench", "lab"}


def install(directory: Path, *options: str) -> None:
    """Install below a directory; what flatmesh needs comes from the tests' environment."""
    places = (f"--{name}={directory / name}" for name in ("prefix", "cni-bin", "bin"))
    done = subprocess.run(
        [REPOSITORY / "deploy/install", *options, *(w for p in places for w in p.split("=", 1))],
        env={**os.environ, "PIP_NO_DEPS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = directory.glob("prefix/lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")


def packages(directory: Path) -> set[str]:
    (site,) = directory.glob("prefix/lib/python*/site-packages")
    return {marker.parent.name for marker in site.glob("*/py.typed")}


def flatmesh(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [directory / "bin/flatmesh", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(600)
def test_a_production_host_has_no_lab_until_it_is_asked_for(tmp_path: Path) -> None:
    install(tmp_path)
    ours = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert packages(tmp_path) & ours == ours - LAB_ONLY
    for arguments in (("lab",), ("lab", "up", "--hosts=2"), ("lab", "--help")):
        refused = flatmesh(tmp_path, *arguments)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr.count("\n") == 1
        assert "deploy/install --lab" in refused.stderr
    assert "lab" in flatmesh(tmp_path, "--help").stdout
    assert flatmesh(tmp_path, "config", "show", "--help").returncode == 0
    daemon = [str(tmp_path / "bin/flatmeshd"), "--help"]
    assert subprocess.run(daemon, capture_output=True, check=False).returncode == 0

    install(tmp_path, "--lab")
    assert packages(tmp_path) & ours == ours
    assert "--hosts" in flatmesh(tmp_path, "lab", "up", "--help").stdout

    places = {"--prefix": "prefix", "--cni-bin": "cni-bin", "--bin": "bin"}
    argv = [word for key, name in places.items() for word in (key, str(tmp_path / name))]
    subprocess.run([str(REPOSITORY / "deploy/uninstall"), *argv], check=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "bin"]
