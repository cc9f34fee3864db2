# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lab up --docker`: dockerd on each host, on every backend; and a host that reboots."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ipam.address_store import AddressStore
from lab import hosts, processes
from lab.cluster import Lab
from lab.docker.containers import measure, planned, start
from lab.docker.host import CGROUPS, DOCKER, DOCKERD
from lab.docker.image import IMAGE

Eventually = Callable[..., None]
BACKENDS = {
    "vxlan": (),
    "udp": ("--backend=udp",),
    "host-gw": ("--backend=host-gw",),
    "wireguard": ("--backend=wireguard",),
    "ovs gre": ("--backend=ovs", "--tunnel=gre", "--mesh=static"),
}
MANY = 50
MISSING = [name for name in (DOCKERD, DOCKER, "/bin/busybox") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


def flatmesh(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cli.main", *arguments]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_command_shows_containers_that_reach_each_other(backend: str) -> None:
    name = f"d{secrets.token_hex(3)}"
    try:
        up = ("lab", "up", "--docker", f"--name={name}", "--hosts=2", "--pods=1")
        done = flatmesh(*up, *BACKENDS[backend])
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line for line in done.stdout.splitlines() if "-c1 " in line and " ms" in line]
        assert len(rows) == 2, done.stdout
        assert all(row.count(" ms") == 2 for row in rows), done.stdout
    finally:
        down = flatmesh("lab", "down", f"--name={name}")
    assert down.returncode == 0, down.stderr
    left = subprocess.run(
        ["pgrep", "-af", f"/{name}/"], capture_output=True, text=True, check=False
    )
    assert left.stdout == ""
    assert not list(CGROUPS.glob(f"**/flatmesh-{name}-*"))


@pytest.fixture(
    scope="module",
    params=[{"Type": "vxlan"}, {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"}],
    ids=["vxlan", "ovs gre"],
)
def docker_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    from tests.scenario.conftest import running_lab

    directory = tmp_path_factory.mktemp("d")
    with running_lab(
        request.config, directory, hosts=2, pods_per_host=1, docker=True, backend=request.param
    ) as lab:
        start(planned([(lab.docker(n), lab.subnet(n)) for n in lab.host_numbers]), "10.5.0.0/16")
        yield lab


def held(lab: Lab, number: int) -> list[str]:
    with AddressStore(lab.host_dir(number) / "var/addresses.sqlite", durable=False) as store:
        records = store.list()
        return sorted(
            str(a) for r in records for a in r.addresses if r.attachment.network == ".docker"
        )


def test_many_containers_at_once_on_both_hosts(docker_lab: Lab, eventually: Eventually) -> None:
    lab = docker_lab
    before = {number: held(lab, number) for number in lab.host_numbers}
    wanted = [(number, f"many{i}") for i in range(MANY) for number in lab.host_numbers]

    def run(one: tuple[int, str]) -> str:
        docker = lab.docker(one[0])
        docker("run", "--detach", "--name", one[1], "--network", "flat", IMAGE, "sleep", "1000000")
        form = '{{(index .NetworkSettings.Networks "flat").IPAddress}}'
        return docker("inspect", "--format", form, one[1])

    with ThreadPoolExecutor(16) as pool:
        addresses = list(pool.map(run, wanted))
    assert len(set(addresses)) == len(wanted)
    # a switch in user space drops a tunnel's first packet, while it asks for the neighbour
    ping = "ping -c 1 -W 5 $a >/dev/null"
    pings = f"for a in {' '.join(addresses)}; do {ping} || {ping} || echo $a; done"
    assert lab.docker(1)("exec", "h1-c1", "sh", "-c", pings) == ""

    def remove(one: tuple[int, str]) -> None:
        lab.docker(one[0])("rm", "--force", one[1])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(remove, wanted))
    eventually(
        lambda: {number: held(lab, number) for number in lab.host_numbers} == before,
        "all addresses are free",
    )
    links = subprocess.run(
        [*processes.enter(lab.names.host(1)), "ip", "-br", "link", "show", "type", "veth"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len([one for one in links if one.startswith("veth")]) == 2  # of h1-p1 and of h1-c1


def test_a_host_reboots(docker_lab: Lab, eventually: Eventually) -> None:
    lab = docker_lab
    before = held(lab, 1)
    containers = planned([(lab.docker(n), lab.subnet(n)) for n in lab.host_numbers])
    host = lab.names.host(1)
    for pid in processes.in_namespaces([host]):
        with contextlib.suppress(ProcessLookupError):  # another's end has ended it
            os.kill(pid, signal.SIGKILL)
    processes.stop(processes.in_namespaces([host]))
    hosts.remove(lab.names.pod(1, "p1"))
    hosts.remove(host)
    hosts.ip("-n", lab.names.underlay, "link", "del", "h1")  # with eth0, its peer
    for file in (lab.host_dir(1) / "run").iterdir():
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    (lab.host_dir(1) / "plugins/flatmesh.sock").unlink(missing_ok=True)
    hosts.make_host(lab.names, 1, lab.spec.underlay_mtu, ipv4=True, ipv6=False)
    if lab.spec.backend["Type"] == "ovs":
        shutil.rmtree(lab.ovs(1).directory)
        lab.ovs(1).start()
    lab.start_daemon(1)
    lab.wait_ready(1)
    lab.docker(1).start()
    eventually(
        lambda: all(pair.good for pair in measure(containers)),
        "the container runs again, at its address and under its name",
        timeout=60,
    )
    assert held(lab, 1) == before


def test_cleanup_refuses_while_containers_run_and_takes_all_away(docker_lab: Lab) -> None:
    lab = docker_lab
    lab.docker(1)(
        "run",
        "--detach",
        "--name=web",
        "--network=flat",
        "--publish=8080:80",
        IMAGE,
        "sleep",
        "9999",
    )
    lab.stop_daemon(1)
    argv = [*processes.enter(lab.names.host(1)), *lab.daemon(1).argv, "--cleanup"]
    environment = {**os.environ, **lab.environment(1)}
    refused = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "pod interface(s) of this host would be removed" in refused.stderr
    done = subprocess.run(
        [*argv, "--force"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tables = subprocess.check_output(
        [*processes.enter(lab.names.host(1)), "nft", "list", "tables"], text=True
    )
    assert "flatmesh" not in tables
    assert not Path(lab.docker(1).plugin_socket).exists()
