# SPDX-License-Identifier: Apache-2.0
"""A user without privileges on a host: no file of ours can be read, locked or held by him."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab

On = Callable[..., str]
NOBODY = 65534
FOR_EVERYBODY = {"subnet.env"}
"""flanneld's file: the plugins of other users read it, and nobody locks it."""
OPEN = """
import fcntl, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        continue
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    print(path)
"""


def ours(directory: Path) -> list[Path]:
    """The host's state and run files; what the lab itself keeps beside them is not looked at."""
    found = [p for part in ("run", "var") for p in (directory / part).rglob("*")]
    return [p for p in found if p.name not in FOR_EVERYBODY]


def opened_by_nobody(paths: list[Path]) -> list[str]:
    """Which of them the user nobody can open and lock."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *map(str, paths)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def reachable_labs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users come as far as the lab's directory: on a host, /run and /var are open."""
    for directory in (tmp_path_factory.getbasetemp(), *tmp_path_factory.getbasetemp().parents):
        if directory.stat().st_mode & 0o005 != 0o005 and directory.stat().st_uid == os.geteuid():
            directory.chmod(0o755)


@pytest.mark.usefixtures("umask", "reachable_labs")
@pytest.mark.parametrize("backend", ["vxlan", "udp", "wireguard", "ovs"])
def test_another_user_can_open_nothing(make_lab: Callable[..., Lab], backend: str) -> None:
    lab = make_lab(hosts=1, pods_per_host=1, backend={"Type": backend})
    for directory in (lab.directory, *lab.directory.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    host = lab.host_dir(1)
    host.chmod(0o755)
    lab.stop_daemon(1)
    lab.add_pod(1, "late")  # in the executable's own process
    lab.start_daemon(1)
    lab.wait_ready(1)
    files = ours(host)
    assert any(path.name == "addresses.sqlite" for path in files)
    assert any(path.name == "flatmeshd.lock" for path in files)
    assert opened_by_nobody(files) == []
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files if path.is_file()}
    assert {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.usefixtures("reachable_labs")
def test_what_an_earlier_version_left_open_is_closed_at_start(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(hosts=1, pods_per_host=1)
    lab.stop_daemon(1)
    host = lab.host_dir(1)
    for path in [host / "run", host / "var", *ours(host)]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    lab.start_daemon(1)
    lab.wait_ready(1)
    lab.add_pod(1, "late")
    assert opened_by_nobody(ours(host)) == []
    for part in ("run", "var"):
        assert stat.S_IMODE((host / part).stat().st_mode) == 0o700
    database = host / "var/addresses.sqlite"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
