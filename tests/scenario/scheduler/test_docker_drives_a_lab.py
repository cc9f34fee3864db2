# SPDX-License-Identifier: Apache-2.0
"""Managers and workers on a lab's hosts, driven by the real docker client and by docker-py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker as docker_py  # type: ignore[import-untyped]
import pytest

from lab import hosts, processes
from lab.cluster import Lab
from lab.scheduler.cluster import scheduler, start_schedulers
from lab.scheduler.host import SchedulerOfHost, in_schedulers
from lab.time_factor import scaled
from tests.scenario.conftest import running_lab

DOCKER, BUSYBOX = Path("/usr/bin/docker"), Path("/bin/busybox")
pytestmark = [
    pytest.mark.skipif(not (DOCKER.exists() and BUSYBOX.exists()), reason="docker.io, busybox"),
    pytest.mark.timeout(600),
]
Eventually = Callable[..., None]
SERVER = "/bin/httpd", "-f", "-p", "80", "-h", "/etc"


@dataclass(frozen=True, slots=True)
class Scheduled:
    lab: Lab
    managers: list[SchedulerOfHost]

    def docker(self, *arguments: str, at: int = 1) -> str:
        """Run the docker client at a host's manager."""
        done = subprocess.run(
            [str(DOCKER), "-H", f"unix://{scheduler(self.lab, at).socket}", *arguments],
            capture_output=True,
            text=True,
            timeout=scaled(60),
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.lab.directory)},
        )
        assert not done.returncode, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def running(self, service: str) -> list[str]:
        """The nodes of a service's tasks that run."""
        ask = "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}"
        lines = [line.split() for line in self.docker("service", "ps", *ask, service).splitlines()]
        return sorted(words[0] for words in lines if words[1] == "Running")

    def answers(self, port: int, path: str = "/hosts") -> list[int]:
        """The hosts whose published port answers, asked from outside of the cluster."""
        found = []
        for number in self.lab.host_numbers:
            url = f"http://{hosts.host_ipv4(number)}:{port}{path}"
            get = [
                *processes.enter(self.lab.names.underlay),
                "curl",
                "-sfm",
                "3",
                "-o",
                "/dev/null",
            ]
            if subprocess.run([*get, url], check=False).returncode == 0:
                found.append(number)
        return found


@pytest.fixture(scope="module")
def scheduled(request: pytest.FixtureRequest) -> Iterator[Scheduled]:
    directory = Path(tempfile.mkdtemp(prefix="fm-"))  # short: unix sockets live below it
    try:
        with running_lab(request.config, directory, pods_per_host=0, scheduler=True) as lab:
            yield Scheduled(lab, start_schedulers(lab))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_a_service_is_created_scaled_updated_rolled_back_and_drained(
    scheduled: Scheduled, eventually: Eventually
) -> None:
    docker, running = scheduled.docker, scheduled.running
    create = "service", "create", "--no-resolve-image", "--init"
    docker(
        *(*create, "--name", "web", "--replicas", "2", "--publish", "8080:80"),
        *("--update-order", "start-first", "--update-monitor", "500ms", "busybox", *SERVER),
    )
    assert len(running("web")) == 2
    eventually(lambda: scheduled.answers(8080) == [1, 2, 3], "each host answers")
    docker("service", "scale", "--detach", "web=3", at=2)
    eventually(lambda: running("web") == ["h1", "h2", "h3"], "one on each host")
    docker("service", "update", "--detach", "--env-add", "A=1", "web", at=3)
    update = "service", "inspect", "web", "--format", "{{.UpdateStatus.State}}"
    eventually(lambda: docker(*update) == "completed", "updated", timeout=60)
    assert scheduled.answers(8080) == [1, 2, 3]
    docker("service", "rollback", "--detach", "web")
    eventually(lambda: docker(*update) == "rollback_completed", "rolled back", timeout=60)
    docker("node", "update", "--availability", "drain", "h2")
    eventually(lambda: len(running("web")) == 3 and "h2" not in running("web"), "h2 is empty")
    docker("node", "update", "--availability", "active", "h2")
    docker("service", "rm", "web")
    eventually(lambda: not scheduled.answers(8080), "no host answers")


def test_a_stack_has_configs_and_secrets_and_its_output_is_read(
    scheduled: Scheduled, eventually: Eventually
) -> None:
    docker = scheduled.docker
    directory = scheduled.lab.directory
    (directory / "motd").write_text("welcome\n")
    (directory / "token").write_text("s3cret\n")
    stack = {
        "version": "3.8",
        "services": {
            "web": {
                "image": "busybox",
                "init": True,
                "command": ["/bin/sh", "-c", "cat /run/secrets/token /motd; exec sleep 100000"],
                "configs": [{"source": "motd", "target": "/motd"}],
                "secrets": ["token"],
                "deploy": {"replicas": 2},
            }
        },
        "configs": {"motd": {"file": str(directory / "motd")}},
        "secrets": {"token": {"file": str(directory / "token")}},
    }
    file = directory / "stack.yml"
    file.write_text(json.dumps(stack))
    docker("stack", "deploy", "--compose-file", str(file), "shop")
    eventually(lambda: len(scheduled.running("shop_web")) == 2, "the stack runs", timeout=60)
    output = docker("service", "logs", "shop_web", at=2).splitlines()
    assert sorted(line.rpartition("| ")[2] for line in output) == ["s3cret"] * 2 + ["welcome"] * 2
    assert {line.partition("@h")[0].rpartition(".")[0] for line in output} == {
        "shop_web.1",
        "shop_web.2",
    }
    assert "shop_web" in docker("stack", "services", "shop")
    assert "Running" in docker("stack", "ps", "shop")
    assert "s3cret" not in docker("secret", "inspect", "shop_token")
    docker("stack", "rm", "shop")
    for kind in ("service", "config", "secret"):
        assert not docker(kind, "ls", "--quiet")


def test_containers_of_docker_run_are_tasks_on_some_node(
    scheduled: Scheduled, eventually: Eventually
) -> None:
    docker = scheduled.docker
    run = "run", "--detach", "--init", "--name"
    docker(*run, "one", "busybox", "sh", "-c", "echo hi; exec sleep 100000")
    docker(*run, "two", "busybox", "sh", "-c", "exit 3", at=2)
    eventually(lambda: docker("ps", "--format", "{{.Names}}") == "one", "one runs")
    assert docker("logs", "one", at=3) == "hi"
    assert docker("wait", "two") == "3"
    docker("stop", "one")
    states = docker("ps", "--all", "--format", "{{.Names}} {{.Status}}").splitlines()
    assert sorted(states) == ["one Exited (143)", "two Exited (3)"]
    docker("rm", "one", "two")
    assert not docker("ps", "--all", "--quiet")
    for option, words in ((("--publish", "1:1"), "PortBindings"), (("--rm",), "AutoRemove")):
        with pytest.raises(AssertionError, match=words):
            docker("run", "--detach", *option, "busybox", "sh")
    with pytest.raises(AssertionError, match="docker run --detach"):
        docker("run", "busybox", "sh")
    assert not docker("ps", "--all", "--quiet")


def test_docker_py(scheduled: Scheduled, eventually: Eventually) -> None:
    client = docker_py.DockerClient(f"unix://{scheduled.managers[0].socket}", version="auto")
    try:
        assert client.ping()
        made = client.services.create(
            "busybox",
            ["/bin/sleep", "100000"],
            name="one",
            init=True,
            mode=docker_py.types.ServiceMode("replicated", 2),
        )
        eventually(lambda: len(scheduled.running("one")) == 2, "two tasks run")
        made.reload()
        assert made.scale(1)
        eventually(lambda: len(scheduled.running("one")) == 1, "one task runs")
        assert [node.attrs["Description"]["Hostname"] for node in client.nodes.list()]
        assert made.remove()
        with pytest.raises(docker_py.errors.NotFound):
            client.services.get("one")
    finally:
        client.close()


def test_the_tasks_of_a_killed_host_run_elsewhere(
    scheduled: Scheduled, eventually: Eventually
) -> None:
    docker, running = scheduled.docker, scheduled.running
    docker(
        *("service", "create", "--no-resolve-image", "--detach", "--init", "--name", "safe"),
        *("--replicas", "3", "busybox", "/bin/sleep", "100000"),
    )
    eventually(lambda: running("safe") == ["h1", "h2", "h3"], "one on each host", timeout=60)
    for pid in in_schedulers(scheduled.lab.host_dir(3)):
        os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: running("safe") in (["h1", "h1", "h2"], ["h1", "h2", "h2"]), "moved", timeout=60
    )
    status = "node", "ls", "--filter", "name=h3", "--format", "{{.Status}}"
    assert docker(*status) == "Down"
    scheduler(scheduled.lab, 3).start()
    eventually(lambda: docker(*status) == "Ready", "h3 is back", timeout=60)
    docker("service", "rm", "safe")
