# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the CNI tests: hosts, container ids, network configs.

Every test here runs on both paths: through the daemon's socket with the compiled client, and
without a daemon. The answers must be the same.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cni.install
from tests.spec.cni_host import CONF, SUBNET_ENV, CniHost, MakeConf, MakeHost, made_host


@pytest.fixture(scope="session")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cni-bin")
    cni.install.install(directory, python=sys.executable)
    return directory


@pytest.fixture(scope="module", params=["daemon", "fallback"])
def shared_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bin_dir: Path
) -> Iterator[CniHost]:
    """One host for all tests of a module: starting a server takes longer than the tests."""
    # a short path: a unix socket's path has at most 107 bytes
    with made_host(tmp_path_factory.mktemp("h"), bin_dir) as host:
        if request.param == "daemon":
            host.serve()
        else:
            host.socket = str(host.directory / "none.sock")
        yield host


@pytest.fixture
def host(shared_host: CniHost) -> Iterator[CniHost]:
    """The shared host; each test's pods are gone afterwards, and so must be its traces."""
    yield shared_host
    shared_host.clear()
    shared_host.forget_all()
    shared_host.environment.clear()
    (shared_host.directory / "subnet.env").write_text(SUBNET_ENV)


@pytest.fixture
def own_host(tmp_path_factory: pytest.TempPathFactory, bin_dir: Path) -> Iterator[CniHost]:
    """A host that no other test has touched, with no daemon yet."""
    with made_host(tmp_path_factory.mktemp("h"), bin_dir) as host:
        yield host


@pytest.fixture(scope="session")
def make_host() -> MakeHost:
    """A context manager that makes a host: `make_host(directory, bin_dir)`."""
    return made_host


@pytest.fixture
def conf() -> MakeConf:
    """A config: the two-line one, with changes."""

    def make(**changes: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in {**CONF, **changes}.items() if v is not None}

    return make


@pytest.fixture
def container() -> str:
    """A container id that no other test uses."""
    return f"c-{secrets.token_hex(6)}"
