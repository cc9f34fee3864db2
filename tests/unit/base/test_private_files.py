# SPDX-License-Identifier: Apache-2.0
"""Files of ours are closed to others under any umask, also those that an old version left open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.private_files import (
    make_private_directory,
    make_private_file,
    open_private,
    write_private,
)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_what_is_made_is_ours_alone(tmp_path: Path) -> None:
    directory = tmp_path / "parent" / "state"
    make_private_directory(directory)
    write_private(directory / "file", "text")
    os.close(open_private(directory / "lock", os.O_RDWR | os.O_CREAT))
    make_private_file(directory / "database")
    assert mode(directory) == 0o700
    assert mode(directory / "database") == 0o600
    assert (mode(directory / "file"), mode(directory / "lock")) == (0o600, 0o600)
    assert (directory / "file").read_text() == "text"


@pytest.mark.usefixtures("umask")
def test_what_was_left_open_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(0o755)
    lock = directory / "lock"
    lock.touch()
    lock.chmod(0o644)
    database = directory / "database"
    database.write_text("rows")
    database.chmod(0o666)
    make_private_directory(directory)
    make_private_file(database)
    assert (mode(database), database.read_text()) == (0o600, "rows")
    with open(lock, "a", opener=open_private):
        pass
    assert (mode(directory), mode(lock)) == (0o700, 0o600)


def test_a_directory_of_everybody_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private_directory(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_private(tmp_path / "link", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert target.read_text() == "precious"
