# SPDX-License-Identifier: Apache-2.0
"""The host's key: made once, replaced only on request, never readable by others."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flannel.wireguard.key import KeyFile, WireguardKeyError, from_private, generate
from hostnet.wireguard.state import key_bytes, key_text


@pytest.mark.skipif(shutil.which("wg") is None, reason="wg(8) is not installed")
def test_wg_agrees_on_the_pair() -> None:
    key = generate()
    done = subprocess.run(
        ["wg", "pubkey"], input=key.private, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == key.public


def test_a_private_key_is_as_wireguard_shows_it() -> None:
    raw = key_bytes(from_private(key_text(b"\xff" * 32)).private)
    assert (raw[0], raw[31]) == (0xF8, 0x7F)
    assert from_private(key_text(raw)).private == key_text(raw)


def test_made_once_for_root_only(tmp_path: Path) -> None:
    state_dir = tmp_path / "var/lib"
    key = KeyFile(state_dir).read_or_make()
    assert KeyFile(state_dir).read_or_make() == key
    path = state_dir / "wireguard.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == f"{key.private}\n"
    assert list(state_dir.iterdir()) == [path]


def test_no_repr_shows_the_private_key() -> None:
    key = generate()
    assert key.private not in repr(key)


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\xfe", b"A" * 43])
def test_a_broken_file_is_an_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wireguard.key"
    path.write_bytes(content)
    with pytest.raises(WireguardKeyError, match=str(path)) as raised:
        KeyFile(tmp_path).read_or_make()
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "wireguard.key").mkdir()
    with pytest.raises(WireguardKeyError, match="Is a directory"):
        KeyFile(tmp_path).read()


def test_a_state_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WireguardKeyError, match=r"Not a directory|File exists"):
        KeyFile(tmp_path / "file" / "var").read_or_make()


def test_rotation_is_requested_and_done_once(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    old = file.read_or_make()
    assert not file.rotation_wanted
    file.ask_rotation()
    assert file.rotation_wanted
    new = file.rotate()
    assert new != old
    assert file.read() == new
    assert not file.rotation_wanted


def test_the_old_key_is_kept_until_the_lease_says_the_new_one(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    old = file.read_or_make()
    new = file.rotate(old.public)
    assert file.known_as(old.public) == old
    assert file.known_as(new.public) == new
    assert file.known_as(None) == new
    file.forget_old(old.public)
    assert file.known_as(old.public) == old
    newest = file.rotate(old.public)  # once more before the lease was ever changed
    assert file.known_as(old.public) == old
    assert file.read() == newest
    file.forget_old(newest.public)
    assert file.known_as(old.public) == newest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wireguard.key"]


def test_a_crash_while_writing_leaves_the_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(tmp_path)
    old = file.read_or_make()
    file.ask_rotation()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            file.rotate()
    assert file.read() == old
    assert file.rotation_wanted


def test_flannelds_key_is_taken_over_when_the_lease_says_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = generate()
    (tmp_path / "wgkey").write_text(theirs.private)
    monkeypatch.setenv("WIREGUARD_KEY_FILE", str(tmp_path / "wgkey"))
    assert KeyFile(tmp_path / "a").read_or_make(theirs.public) == theirs
    assert KeyFile(tmp_path / "b").read_or_make(None) != theirs
    assert KeyFile(tmp_path / "c").read_or_make(generate().public) != theirs
    own = KeyFile(tmp_path / "b").read()
    assert KeyFile(tmp_path / "b").read_or_make(theirs.public) == own


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    file.read_or_make()
    file.ask_rotation()
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []
