# SPDX-License-Identifier: Apache-2.0
"""`flatmesh wireguard rotate-key`: a request that the daemon finds in its state directory."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from cli.main import cli
from flannel.wireguard.key import KeyFile, WireguardKeyError


def test_rotation_is_asked_for_in_the_daemons_state_directory(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key = file.read_or_make()
    arguments = ["wireguard", "rotate-key"]
    done = CliRunner().invoke(cli, arguments, env={"FLATMESH_STATE_DIR": str(tmp_path)})
    assert done.exit_code == 0, done.output
    assert file.rotation_wanted
    assert file.read() == key, "the daemon makes the new key, in the order that loses no packet"


def test_host_without_a_key_is_told_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["wireguard", "rotate-key", "--state-dir", str(tmp_path)])
    assert isinstance(done.exception, WireguardKeyError)
    assert "no WireGuard key to replace" in str(done.exception)
    assert not KeyFile(tmp_path).rotation_wanted
