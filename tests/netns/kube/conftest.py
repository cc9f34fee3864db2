# SPDX-License-Identifier: Apache-2.0
"""A real API server with a real etcd, where its binaries were built (tests/kubernetes/build)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.etcd_server import EtcdServer
from tests.conftest import ALONE, loopback
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.binaries import missing


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API server for a module's tests; they may stop it, and start it again."""
    why = missing("kube-apiserver")
    if why:
        pytest.skip(why)
    directory = tmp_path_factory.mktemp("kube")
    address = loopback()
    etcd = EtcdServer(
        directory / "etcd",
        f"http://{address}:2379",
        f"http://{address}:2380",
        flags=ALONE,
        die_with_caller=True,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(etcd.stop)
        etcd.start()
        server = ApiServer(directory, address, f"http://{address}:2379")
        stack.callback(server.stop)
        server.start()
        yield server


@pytest.fixture
def net_conf(tmp_path: Path) -> Path:
    path = tmp_path / "net-conf.json"
    path.write_text('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
    return path
