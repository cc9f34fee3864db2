# SPDX-License-Identifier: Apache-2.0
"""Which cluster a command means, and whose password goes where."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from agent.settings import Settings
from agent.status.daemon_settings import exported
from agent.status.server import StatusServer
from cli.cluster import adopt_host_variables, cluster_options, cluster_settings, is_other_host
from etcd.connect import EtcdSettings

PASSWORD = "correct horse"  # noqa: S105 - looked for in what must not hold it
ETCD = EtcdSettings(("https://[fd00::1]:2379", "https://etcd:2379"), "/net", username="us")


@click.command()
@cluster_options
def show(**flags: Any) -> None:
    click.echo(cluster_settings(dict(flags)))


@contextlib.contextmanager
def daemon(directory: Path, etcd: EtcdSettings) -> Iterator[None]:
    settings = Settings(etcd=etcd, run_dir=directory)
    server = StatusServer(directory / "status.sock", {"settings": lambda _: exported(settings)})
    server.start()
    try:
        yield
    finally:
        server.close()


def run(directory: Path, *arguments: str, **variables: str) -> Result:
    inherited = {name: None for name in os.environ if name.startswith(("FLANNELD", "FLATMESH"))}
    environment: Mapping[str, str | None] = inherited | {"FLATMESH_RUN_DIR": str(directory)}
    return CliRunner().invoke(show, arguments, env={**environment, **variables})


def test_what_is_not_given_comes_from_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, ETCD):
        assert run(tmp_path).output == f"{ETCD}\n"
        expected = replace(ETCD, prefix="/other", username="me")
        given = run(tmp_path, "--etcd-prefix=/other", FLANNELD_ETCD_USERNAME="me")
        assert given.output == f"{expected}\n"


def test_another_cluster_gets_nothing_of_this_one(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    with daemon(tmp_path, replace(ETCD, passwordfile=str(file))):
        assert str(file) in run(tmp_path).output
        for given in (
            run(tmp_path, "--etcd-endpoints=http://other:2379"),
            run(tmp_path, FLANNELD_ETCD_ENDPOINTS="http://other:2379"),
        ):
            expected = EtcdSettings(("http://other:2379",), "/coreos.com/network")
            assert given.output == f"{expected}\n"


def test_a_password_that_the_daemon_keeps_has_to_be_given(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    with daemon(tmp_path, replace(ETCD, password=PASSWORD)):
        refused = run(tmp_path)
        assert "give it with --etcd-password-file" in str(refused.exception)
        assert PASSWORD not in f"{refused.output}{refused.exception}"
        given = run(tmp_path, f"--etcd-password-file={file}")
        assert given.output == f"{replace(ETCD, passwordfile=str(file))}\n"


def test_without_a_daemon_and_a_file_the_defaults_hold(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert "http://127.0.0.1:4001" in result.output


def test_this_host_s_paths_come_from_its_file_unless_another_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "cli.cluster.file_variables",
        lambda: {"FLATMESH_STATE_DIR": "/state", "FLANNELD_IFACE": "eth1"},
    )
    environment = {"HOME": "/root"}
    adopt_host_variables(environment)
    assert environment == {"HOME": "/root", "FLATMESH_STATE_DIR": "/state"}
    other = {"FLATMESH_RUN_DIR": "/run/other"}
    adopt_host_variables(other)
    assert other == {"FLATMESH_RUN_DIR": "/run/other"}
    assert not is_other_host({"FLATMESH_RUN_DIR": "/run/flatmesh"}, {})
    assert not is_other_host({"FLATMESH_RUN_DIR": "/x"}, {"FLATMESH_RUN_DIR": "/x"})
