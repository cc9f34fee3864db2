# SPDX-License-Identifier: Apache-2.0
"""deploy/install as an operator calls it: what is on a production host, and what --lab adds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
INSTALL_TIMEOUT = 240.0  # seconds; pip fetches what builds the wheel
LAB_ONLY = {"bench", "lab"}
SHELL_FILES = (
    *("man/man1/flatmesh.1", "man/man1/flatmesh-lease-list.1", "man/man8/flatmeshd.8"),
    *("bash-completion/completions/flatmesh", "zsh/site-functions/_flatmeshd"),
    "fish/vendor_completions.d/flatmesh.fish",
)


def options(directory: Path) -> list[str]:
    """Everything below a directory; a host's own files too."""
    places = ("prefix", "cni-bin", "bin", "root")
    return [word for name in places for word in (f"--{name}", str(directory / name))]


def script(name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(REPOSITORY / "deploy" / name), *argv],
        env={**os.environ, "PIP_NO_COMPILE": "1"},  # sooner
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )


def install(directory: Path, *more: str) -> str:
    """Install with what PyPI has; returns the last line."""
    done = script("install", *options(directory), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def packages(directory: Path) -> set[str]:
    (site,) = directory.glob("prefix/lib/python*/site-packages")
    return {marker.parent.name for marker in site.glob("*/py.typed")}


def flatmesh(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [directory / "bin/flatmesh", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(600)
def test_a_production_host_has_no_lab_until_it_is_asked_for(tmp_path: Path) -> None:
    said = install(tmp_path)
    assert said.startswith("==> installed flatmesh "), said
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

    portmap = tmp_path / "cni-bin/portmap"  # which the shipped conflist calls
    assert portmap.resolve() == Path("/usr/lib/cni/portmap")
    hosts = tmp_path / "root/etc"
    unit = hosts / "systemd/system/flatmeshd.service"
    assert f"ExecStart={tmp_path}/bin/flatmeshd" in unit.read_text()
    assert (hosts / "systemd/system/flatmeshd-wait-ready.service").exists()
    assert (hosts / "systemd/network/10-flatmesh.link").exists()
    assert (hosts / "NetworkManager/conf.d/10-flatmesh.conf").exists()

    said = install(tmp_path, "--lab")
    assert said.startswith("==> installed again: flatmesh "), said
    assert packages(tmp_path) & ours == ours
    assert "--hosts" in flatmesh(tmp_path, "lab", "up", "--help").stdout
    assert "--between" in flatmesh(tmp_path, "bench", "--help").stdout
    assert (tmp_path / "share/man/man1/flatmesh-lab-up.1").is_file()

    removed = script("uninstall", *options(tmp_path))
    assert removed.returncode == 0, removed.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prefx", "/x"], "unknown option --prefx; see"),
        (["--prefix"], "--prefix needs a directory"),
        (["--prefix="], "--prefix needs a directory"),
        (["--bin=/a b"], "--bin /a b: use letters, digits"),
        (["--prefix=/usr"], "/usr holds other things than flatmesh"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(argv: list[str], said: str) -> None:
    done = script("install", *argv)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["install", "uninstall"])
def test_help_says_all_options(name: str) -> None:
    done = script(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 81
    for option in ("--prefix", "--bin", "--cni-bin", "--root"):
        assert option in done.stdout
