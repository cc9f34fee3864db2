# SPDX-License-Identifier: Apache-2.0
"""Configs, secrets and stacks, by the real docker client; the workers pretend to run tasks."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from bench.scheduler.workers import SimulatedWorkers
from lab.etcd_server import EtcdServer
from tests.netns.etcd.running_client import client, run
from tests.netns.scheduler.front.docker_client import DOCKER, DockerClient, manager_process
from tests.netns.scheduler.running_managers import KEYS, until

pytestmark = pytest.mark.skipif(not DOCKER.exists(), reason="needs docker.io")
DETACHED = "--detach", "--no-resolve-image"
LARGEST = {"config": 1000 << 10, "secret": 500 << 10}  # bytes
COMPOSE = """
version: "3.8"
services:
  web:
    image: busybox
    command: sleep 1000
    ports: ["8080:80"]
    configs: [{source: page, target: /srv/page}]
    secrets: [key]
    deploy: {replicas: REPLICAS, labels: {tier: front}}
  db:
    image: busybox
configs:
  page: {file: ./page}
secrets:
  key: {file: ./key}
"""


def test_configs_secrets_and_stacks_by_the_docker_client(etcd: EtcdServer, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello")
    (tmp_path / "key").write_text("k3y")
    for kind, most in LARGEST.items():
        for size in (most, most + 1):
            (tmp_path / f"{kind}-{size}").write_bytes(b"x" * size)

    async def story() -> None:
        async with (
            client(etcd) as db,
            manager_process(etcd, tmp_path) as docker,
            SimulatedWorkers(db, KEYS, ["n1", "n2"]) as workers,
        ):
            for kind in ("config", "secret"):
                await _objects(docker, kind, tmp_path)
            await _largest(docker, tmp_path)
            await _stack(docker, workers, tmp_path)

    run(story())


async def _objects(docker: DockerClient, kind: str, directory: Path) -> None:
    page = str(directory / "page")
    await docker(kind, "create", "--label", "a=b", "one", page)
    assert "there is one with this name" in await docker(kind, "create", "one", page, fails=True)
    assert f"{kind} name" in await docker(kind, "create", "a/b", page, fails=True)
    names = "--format", "{{.Name}}"
    assert await docker(kind, "ls", "--filter", "label=a=b", *names) == "one"
    assert not await docker(kind, "ls", "--filter", "label=a=c", *names)
    found = json.loads(await docker(kind, "inspect", "one"))[0]
    assert found["Spec"].get("Data") == (None if kind == "secret" else "aGVsbG8=")
    await docker("service", "create", *DETACHED, "--name", "user", f"--{kind}", "one", "busybox")
    assert "is in use by service user" in await docker(kind, "rm", "one", fails=True)
    await docker("service", "rm", "user")
    await docker(kind, "rm", "one")
    assert "no such" in (await docker(kind, "inspect", "one", fails=True)).lower()
    option = "--driver" if kind == "secret" else "--template-driver"
    refused = await docker(kind, "create", option, "x", "two", *_file(kind, page), fails=True)
    assert "is not supported" in refused


async def _largest(docker: DockerClient, directory: Path) -> None:
    for kind, most in LARGEST.items():
        await docker(kind, "create", "large", str(directory / f"{kind}-{most}"))
        await docker(kind, "rm", "large")
        above = str(directory / f"{kind}-{most + 1}")
        assert f"1 to {most}" in await docker(kind, "create", "large", above, fails=True)


def _file(kind: str, page: str) -> tuple[str, ...]:
    return () if kind == "secret" else (page,)  # a secret of a driver has no data


def _runs(workers: SimulatedWorkers, tasks: int) -> bool:
    return len(workers.running) == tasks


async def _stack(docker: DockerClient, workers: SimulatedWorkers, directory: Path) -> None:
    compose = directory / "compose.yml"
    deploy = "stack", "deploy", "--resolve-image", "never", "-c", str(compose), "shop"
    for replicas, tasks in ((2, 3), (3, 4)):  # the second time it updates what is there
        compose.write_text(COMPOSE.replace("REPLICAS", str(replicas)))
        await docker(*deploy)
        await until(partial(_runs, workers, tasks), f"{tasks} tasks run")
    assert await docker("stack", "ls", "--format", "{{.Name}} {{.Services}}") == "shop 2"
    lines = await docker("stack", "services", "shop", "--format", "{{.Name}} {{.Replicas}}")
    assert sorted(lines.splitlines()) == ["shop_db 1/1", "shop_web 3/3"]
    lines = await docker("stack", "ps", "shop", "--format", "{{.Name}} {{.CurrentState}}")
    assert sum("Running" in line for line in lines.splitlines()) == 4
    await docker("stack", "rm", "shop")
    await until(lambda: not workers.running, "all are gone")
    for kind in ("service", "config", "secret"):
        assert not await docker(kind, "ls", "-q")
    assert "shop" not in await docker("network", "ls")
