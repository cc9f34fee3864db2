# SPDX-License-Identifier: Apache-2.0
"""A lab whose pods, labels and policies are those of a real API server, both families."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from lab import processes
from lab.hosts import UNDERLAY_IPV4
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.binaries import missing
from tests.scenario.policy.policy_lab import PolicyLab


@pytest.fixture(scope="module")
def policy_lab(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[PolicyLab]:
    """Two hosts with an Open vSwitch each; a module's tests share it."""
    with running(tmp_path_factory, request, Type="vxlan") as lab:
        yield lab


@pytest.fixture(scope="module")
def switch_lab(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[PolicyLab]:
    """The same, with pods as ports of obr0."""
    backend = {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow", "PodAttach": "obr0"}
    with running(tmp_path_factory, request, **backend) as lab:
        yield lab


@contextlib.contextmanager
def running(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, **first: str
) -> Iterator[PolicyLab]:
    why = missing("kube-apiserver")
    if why:
        pytest.skip(why)
    from tests.scenario.conftest import running_lab

    directory = tmp_path_factory.mktemp("labs")
    backend = {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"}
    spec = {"hosts": 2, "pods_per_host": 0, "backend": backend, "ipv6": True}
    with running_lab(request.config, directory, **spec, underlay_ipv6=True) as lab:
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            subprocess.run(
                [
                    *processes.enter(lab.names.host(number)),
                    *(*lab.daemon(number).argv, "--cleanup", "--force"),
                ],
                env={**os.environ, **lab.environment(number)},
                check=True,
                capture_output=True,
            )
        own = lab.directory / "kube"
        own.mkdir()
        server = ApiServer(own, f"{UNDERLAY_IPV4}.1", lab.endpoint, lab.names.underlay)
        server.start()
        try:
            made = PolicyLab(lab, server)
            made.configure(**first)
            for number in lab.host_numbers:
                server.make_node(f"h{number}", *made.subnets(number))
                made.daemon(number).start()
            for number in lab.host_numbers:
                made.daemon(number).wait_ready()
            yield made
        finally:
            server.stop()
