# SPDX-License-Identifier: Apache-2.0
"""What systemd-networkd is configured to remove."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cli import networkd


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_its_defaults_remove_routes_and_rules(tmp_path: Path) -> None:
    assert networkd.removes(tmp_path) == list(networkd.SETTINGS)
    write(tmp_path, "etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n")
    assert networkd.removes(tmp_path) == list(networkd.SETTINGS)


def test_a_drop_in_goes_before_the_file_and_etc_before_usr(tmp_path: Path) -> None:
    write(tmp_path, "etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\n")
    assert networkd.removes(tmp_path) == ["ManageForeignRoutingPolicyRules"]
    drop_in = "networkd.conf.d/50-x.conf"
    write(tmp_path, f"usr/lib/systemd/{drop_in}", "[Network]\nManageForeignRoutes=yes\n")
    assert networkd.removes(tmp_path) == list(networkd.SETTINGS)
    write(tmp_path, f"etc/systemd/{drop_in}", "[Network]\n")
    assert networkd.removes(tmp_path) == ["ManageForeignRoutingPolicyRules"]


def test_the_mend_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert networkd.DROP_IN in networkd.mend()
    monkeypatch.setattr(networkd, "DROP_IN", f"{tmp_path}{networkd.DROP_IN}")
    command = networkd.mend().partition("&& systemctl")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert networkd.removes(tmp_path) == []
