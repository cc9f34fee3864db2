"""deploy/install as an operator calls it: what is on a production host, and what --lab adds."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
INSTALL_TIMEOUT = 240.0  # seconds; pip fetches what builds the wheel
PYTHON = """#!/bin/sh
# called with: -m venv PREFIX
/usr/bin/python3 "$@" && echo {packages} >"$(echo "$3"/lib/python*/site-packages)/dependencies.pth"
"""
LAB_ONLY = {"bench", "lab"}
SHELL_FILES = (
    *("man/man1/flatmesh.1", "man/man1/flatmesh-lease-list.1", "man/man8/flatmeshd.8"),
    *("bash-completion/completions/flatmesh", "zsh/site-functions/_flatmeshd"),
    "fish/vendor_completions.d/flatmesh.fish",
)


def install(directory: Path, *options: str) -> None:
    """Install below a directory; what flatmesh needs comes from the tests' environment."""
    python = directory / "python"
    python.write_text(PYTHON.format(packages=sysconfig.get_path("purelib")))
    python.chmod(0o755)
    places = (f"--{name}={directory / name}" for name in ("prefix", "cni-bin", "bin"))
    done = subprocess.run(
        [REPOSITORY / "deploy/install", *options, *(w for p in places for w in p.split("=", 1))],
        env={**os.environ, "PIP_NO_DEPS": "1", "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )
    python.unlink()
    assert done.returncode == 0, done.stdout + done.stderr


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
    for arguments in (
        ("lab",),
        ("lab", "up", "--hosts=2"),
        ("lab", "--help"),
        ("bench", "--quick"),
    ):
        refused = flatmesh(tmp_path, *arguments)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr.count("\n") == 1
        assert "deploy/install --lab" in refused.stderr
    assert "lab" in flatmesh(tmp_path, "--help").stdout
    assert flatmesh(tmp_path, "config", "show", "--help").returncode == 0
    daemon = [str(tmp_path / "bin/flatmeshd"), "--help"]
    assert subprocess.run(daemon, capture_output=True, check=False).returncode == 0
    for name in SHELL_FILES:
        assert (tmp_path / "share" / name).is_file(), name
    assert not (tmp_path / "share/man/man1/flatmesh-lab-up.1").exists()
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    assert f"(commit {found or 'unknown'})" in flatmesh(tmp_path, "--version").stdout

    install(tmp_path, "--lab")
    assert packages(tmp_path) & ours == ours
    assert "--hosts" in flatmesh(tmp_path, "lab", "up", "--help").stdout
    assert "--between" in flatmesh(tmp_path, "bench", "--help").stdout
    assert (tmp_path / "share/man/man1/flatmesh-lab-up.1").is_file()

    places = {"--prefix": "prefix", "--cni-bin": "cni-bin", "--bin": "bin"}
    argv = [word for key, name in places.items() for word in (key, str(tmp_path / name))]
    subprocess.run([str(REPOSITORY / "deploy/uninstall"), *argv], check=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "bin"]
