# SPDX-License-Identifier: Apache-2.0
"""Two hosts with the real dockerd each, shared by all tests of this folder."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab
from lab.docker.host import DOCKER, DOCKERD
from tests.scenario.conftest import running_lab
from tests.scenario.docker.docker_host import DockerHost
from tests.spec.runtimes.runtime_host import DEADLINE, RuntimeHost

MISSING = [name for name in (DOCKERD, DOCKER, "/bin/busybox") if shutil.which(name) is None]


@pytest.fixture(
    scope="session",
    params=[{"Type": "vxlan"}, {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"}],
    ids=["vxlan", "ovs gre"],
)
def docker_hosts(request: pytest.FixtureRequest) -> Iterator[list[DockerHost]]:
    """Two hosts with both families; Docker's default bridge is kbr0."""
    with running_docker_hosts(request.config, backend=request.param) as made:
        yield made


@contextlib.contextmanager
def running_docker_hosts(
    config: pytest.Config, *, bridge: bool = True, **spec: object
) -> Iterator[list[DockerHost]]:
    """Two hosts with dockerd; with `bridge` its default bridge is kbr0."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    directory = Path(tempfile.mkdtemp(prefix="fm-"))  # short: unix sockets live below it
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        lab = stack.enter_context(
            running_lab(config, directory, hosts=2, pods_per_host=0, ipv6=True, **spec)
        )
        yield [_docker_host(lab, number, stack, bridge=bridge) for number in lab.host_numbers]


def _docker_host(lab: Lab, number: int, stack: contextlib.ExitStack, *, bridge: bool) -> DockerHost:
    cgroup = f"fm-{secrets.token_hex(3)}"
    stack.callback(_remove_cgroup, cgroup)
    host = RuntimeHost(lab, number, lab.host_dir(number) / "docker")
    made = DockerHost(lab, number, host, f"/{cgroup}")
    stack.callback(made.stop)
    lab.stop_daemon(number)
    made.prepare()
    made.start_daemon()
    made.start(*(made.flatmesh("docker-options").split() if bridge else ["--bridge=none"]))
    made.load()
    return made


def _remove_cgroup(name: str) -> None:
    found = [p for p in Path("/sys/fs/cgroup").glob(f"*/{name}/**/") if p.is_dir()]
    deadline = time.monotonic() + DEADLINE
    for path in sorted(found, key=lambda p: -len(p.parts)):
        while path.exists() and time.monotonic() < deadline:
            try:
                path.rmdir()
            except OSError:  # its last process is still on the way out
                time.sleep(0.02)
