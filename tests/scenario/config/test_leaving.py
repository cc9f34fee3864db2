# SPDX-License-Identifier: Apache-2.0
"""Files that can't be written, ports that are taken, and a host that leaves the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lab import processes
from lab.cluster import Lab
from lab.matrix import measure
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=2, pods_per_host=1) as lab:
        yield lab


def flatmeshd(lab: Lab, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [*processes.enter(lab.names.host(1)), *lab.daemon(1).argv, *flags]
    return subprocess.run(
        argv,
        env={**os.environ, **lab.environment(1)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_subnet_file_that_cant_be_written_is_told_once(
    two: Lab, on: On, eventually: Eventually
) -> None:
    two.stop_daemon(1)
    directory = two.host_dir(1) / "read-only"
    directory.mkdir()
    on(two.names.host(1), f"mount -t tmpfs -o ro tmpfs {directory}")
    try:
        two.start_daemon(1, f"--subnet-file={directory}/subnet.env", "--healthz-port=9000")
        curl = "curl -s -m 10 http://127.0.0.1:9000/readyz"
        words = f"{directory}/subnet.env can't be written: Read-only file system"
        eventually(lambda: words in on(two.names.host(1), curl, check=False), "/readyz says so")
        time.sleep(7.0)  # it is tried again after 2 and 4 s
        assert two.log(1).count("can't be written") == 1
    finally:
        two.stop_daemon(1)
        on(two.names.host(1), f"umount {directory}", check=False)
    two.start_daemon(1)
    two.wait_ready(1)


def test_a_port_that_is_taken_is_named_with_its_holder(two: Lab, eventually: Eventually) -> None:
    hold = "import socket,time; s=socket.create_server(('127.0.0.1', 9000)); time.sleep(600)"
    log = two.directory / "holder.log"
    holder = processes.spawn([sys.executable, "-c", hold], two.names.host(1), log)
    two.stop_daemon(1)
    try:
        answer = ""

        def told() -> bool:
            nonlocal answer
            done = flatmeshd(two, "--healthz-port=9000")
            answer = done.stderr
            return done.returncode == 1 and "in use" in answer

        eventually(told, "the daemon ends")
        assert "--healthz-port 9000: TCP port 9000 is in use by python" in answer
        assert "Errno" not in answer
    finally:
        processes.stop([holder.pid])
        holder.wait()
        two.start_daemon(1)
        two.wait_ready(1)


def test_cleanup_refuses_to_cut_pods_and_gives_the_lease_back(two: Lab, on: On) -> None:
    subnet = two.subnet(1)
    two.stop_daemon(1)
    refused = flatmeshd(two, "--cleanup")
    assert refused.returncode == 1
    assert "1 pod interface" in refused.stderr
    assert "--force" in refused.stderr
    pods = two.pod_endpoints(4)
    assert all(result.good for result in measure(pods, pods, timeout=10.0))
    assert subnet in two.flatmesh("lease", "list")
    done = flatmeshd(two, "--cleanup", "--force")
    assert done.returncode == 0, done.stderr
    assert subnet not in two.flatmesh("lease", "list")
    assert "flatmesh" not in on(two.names.host(1), "nft list tables")
    assert not (two.host_dir(1) / "var/lease.json").exists()
    again = flatmeshd(two, "--cleanup")
    assert again.returncode == 0, again.stderr
