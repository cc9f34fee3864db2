# SPDX-License-Identifier: Apache-2.0
"""The real docker client drives a manager; the workers pretend to run tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bench.scheduler.workers import SimulatedWorkers
from lab.etcd_server import EtcdServer
from tests.netns.etcd.running_client import STEP_TIMEOUT, client, run
from tests.netns.scheduler.front.docker_client import DOCKER, DockerClient, manager_process
from tests.netns.scheduler.running_managers import KEYS, per_node, until

pytestmark = pytest.mark.skipif(not DOCKER.exists(), reason="needs docker.io")
DETACHED = "--detach", "--no-resolve-image"


async def _one(docker: DockerClient, *arguments: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(await docker(*arguments))
    assert len(found) == 1
    return found[0]


def test_services_and_nodes_by_the_docker_client(etcd: EtcdServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            client(etcd) as db,
            manager_process(etcd, tmp_path) as docker,
            SimulatedWorkers(db, KEYS, ["n1", "n2", "n3"]) as workers,
        ):
            await _services(docker, workers)
            await _refusals(docker)
            await _nodes(docker, workers)
            await _networks(docker)

    run(story())


async def _services(docker: DockerClient, workers: SimulatedWorkers) -> None:
    # attached: the client waits until the tasks run
    await docker(
        *("service", "create", "--no-resolve-image", "--name", "web", "--replicas", "3"),
        *("--publish", "8080:80", "--update-monitor", "100ms", "--update-parallelism", "0"),
        *("--label", "tier=front", "--env", "A=1", "busybox", "sleep", "1000"),
    )
    assert len(workers.running) == 3
    assert (
        await docker(
            "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}"
        )
        == "web replicated 3/3 busybox:latest *:8080->80/tcp"
    )
    lines = await docker(
        "service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.CurrentState}}"
    )
    assert sorted(line.split()[:3] for line in lines.splitlines()) == [
        [f"web.{n}", node, "Running"]
        for n, node in sorted((task.slot, task.node) for task in workers.running.values())
    ]
    await docker("service", "scale", "web=5")
    await until(lambda: len(workers.running) == 5, "5 tasks")
    await docker("service", "update", *DETACHED, "--env-add", "A=2", "--image", "busybox:2", "web")
    await until(lambda: {task.spec_version for task in workers.running.values()} == {2}, "updated")
    found = await _one(docker, "service", "inspect", "web")
    assert found["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=2"]
    assert found["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:latest"
    await _update_ended(docker, "web")  # its end changes the service's version, too
    await docker("service", "rollback", "--detach", "web")
    await until(lambda: {task.spec_version for task in workers.running.values()} == {1}, "back")
    assert "busybox" in await docker("service", "inspect", "--pretty", "web")
    assert await docker("service", "ls", "-q", "--filter", "label=tier=front")
    assert not await docker("service", "ls", "-q", "--filter", "name=other")


async def _update_ended(docker: DockerClient, service: str) -> None:
    async with asyncio.timeout(STEP_TIMEOUT):
        while True:
            status = (await _one(docker, "service", "inspect", service)).get("UpdateStatus", {})
            if status.get("State") == "completed":
                return
            await asyncio.sleep(0.1)


async def _refusals(docker: DockerClient) -> None:
    create = "service", "create", *DETACHED
    for arguments, words in (
        (("--name", "web", "busybox"), "web: there is one with this name already"),
        (("--publish", "8080:80", "busybox"), "port 8080/tcp is already in use by service web"),
        (("--constraint", "node.colour==red", "busybox"), "node.colour"),
        (("--sysctl", "net.core.somaxconn=1", "busybox"), "Sysctls (--sysctl) is not supported"),
        (("--isolation", "hyperv", "busybox"), "Isolation is not supported"),
        (("--credential-spec", "file://x", "busybox"), "Privileges is not supported"),
        (("--mount", "type=volume,source=a,target=/a", "busybox"), "Mounts.0.Type"),
        (("--network", "missing", "busybox"), "missing"),
        (
            ("--endpoint-mode", "dnsrr", "--publish", "1:1", "busybox"),
            "needs the endpoint mode vip",
        ),
        (("--name", "a/b", "busybox"), "service name 'a/b'"),
    ):
        assert words in await docker(*create, *arguments, fails=True), arguments
    assert "no such" in await docker("service", "inspect", "missing", fails=True)
    assert "swarm init is not supported" in await docker("swarm", "init", fails=True)
    assert "is not supported by flatmesh-scheduler" in await docker("plugin", "ls", fails=True)
    found = await _one(docker, "service", "inspect", "web")
    url = f"/services/{found['ID']}/update?version={found['Version']['Index'] - 1}"
    status, problem = await _http(docker.socket, "POST", url, json.dumps(found["Spec"]).encode())
    assert status == 400
    assert "update out of sequence" in problem
    many = quote(json.dumps({"name": [f"service-{number}" for number in range(2000)]}))
    status, none = await _http(docker.socket, "GET", f"/services?filters={many}", b"")
    assert (status, json.loads(none)) == (200, []), none
    for method, path, body, wanted in (
        ("GET", "/v1.42/info", b"", 400),
        ("GET", "/v1.12/info", b"", 400),
        ("POST", "/services/create", b"{", 400),
        ("POST", "/services/create", b"[]", 400),
        ("POST", "/services/create", b'{"Name":' + b"[" * 100_000, 400),
        ("POST", "/services/create", b" " * (5 << 20), 413),
        ("POST", "/networks/create", b'{"Name":"a","Options":[1]}', 400),
        ("POST", "/networks/create", b'{"Name":"a","Options":-1}', 400),
        ("POST", "/configs/create", b'{"Name":"a","Data":"\\u00e9"}', 400),
        ("GET", "/services?filters=%7B", b"", 400),
        ("GET", "/services?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", b"", 400),
        ("POST", "/services/web/update?version=x", b"{}", 400),
        ("POST", "/services/web/update?version=1&colour=red", b"{}", 400),
        ("GET", "/services/missing", b"", 404),
        ("GET", "/nothing", b"", 501),
    ):
        status, problem = await _http(docker.socket, method, path, body)
        assert status == wanted, (path, problem)
        assert json.loads(problem)["message"]


async def _http(path: Path, method: str, url: str, body: bytes) -> tuple[int, str]:
    """A request as no client of Docker makes it."""

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(path))
            head = f"{method} {url} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
            with contextlib.suppress(BrokenPipeError):  # the answer may come before the body's end
                sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            found = b""
            while piece := sock.recv(65536):
                found += piece
            return found

    head, _, rest = (await asyncio.to_thread(ask)).partition(b"\r\n\r\n")
    return int(head.split()[1]), rest.decode()


async def _nodes(docker: DockerClient, workers: SimulatedWorkers) -> None:
    names = await docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}}")
    assert sorted(names.splitlines()) == [f"n{n} Ready Active" for n in (1, 2, 3)]
    await docker("node", "update", "--label-add", "disk=ssd", "n3")
    await docker("node", "update", "--availability", "drain", "n1")
    await until(lambda: not per_node(workers)["n1"] and len(workers.running) == 5, "n1 is empty")
    assert "Running" in await docker("node", "ps", "n2")
    await docker(
        "service",
        "create",
        *DETACHED,
        "--name",
        "fast",
        "--constraint",
        "node.labels.disk==ssd",
        "busybox",
    )
    await until(lambda: len(workers.running) == 6, "6 tasks")
    assert "n3" in await docker("service", "ps", "fast")
    await docker("node", "promote", "n2")
    assert (await _one(docker, "node", "inspect", "n2"))["Spec"]["Role"] == "manager"
    assert "the last manager" in await docker("node", "demote", "n2", fails=True)
    assert "is not down" in await docker("node", "rm", "n1", fails=True)
    await docker("node", "rm", "--force", "n1")
    assert "n1" not in await docker("node", "ls")
    await docker("service", "rm", "web", "fast")
    await until(lambda: not workers.running, "all are gone")
    assert not await docker("service", "ls", "-q")


async def _networks(docker: DockerClient) -> None:
    await docker("network", "create", "--driver", "overlay", "--label", "a=b", "back")
    assert "back" in await docker("network", "ls", "--filter", "label=a=b", "--format", "{{.Name}}")
    assert "IPAM" in await docker("network", "create", "--subnet", "10.9.0.0/24", "n", fails=True)
    await docker("service", "create", *DETACHED, "--name", "db", "--network", "back", "busybox")
    assert "in use by service db" in await docker("network", "rm", "back", fails=True)
    await docker("service", "rm", "db")
    await docker("network", "rm", "back")
    assert (await docker("network", "inspect", "flatmesh", "--format", "{{.Scope}}")) == "swarm"
    info = await docker("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Nodes}}")
    assert info == "active 2"
    assert await docker("version", "--format", "{{.Server.APIVersion}}") == "1.41"
