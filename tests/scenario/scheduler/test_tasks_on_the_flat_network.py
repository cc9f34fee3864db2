# SPDX-License-Identifier: Apache-2.0
"""Tasks on two hosts of a lab, attached by flatmesh's own CNI executables, reach each other."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab
from lab.spec import LabSpec
from scheduler.model.base import parse
from scheduler.model.service import Service, ServiceSpec
from scheduler.model.task import TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.keys import Keys

KEYS = Keys("/s")
DEADLINE = 90.0  # seconds, for anything that is waited for
PROGRAM = "from scheduler.main import main; main()"


class SchedulerHost:
    """One host's scheduler process: a worker, on the first host a manager, too."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.number = lab, number
        self.directory = lab.directory / f"s{number}"
        (self.directory / "net.d").mkdir(parents=True)
        conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "flatmesh"}]}
        (self.directory / "net.d/10-flatmesh.conflist").write_text(json.dumps(conflist))
        log = (self.directory / "log").open("wb")
        self.process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{lab.names.host(number)}"),
                *(sys.executable, "-c", PROGRAM, "run", "--worker"),
                *(("--manager",) if number == 1 else ()),
                *("--etcd-endpoints", lab.endpoint, "--prefix", KEYS.prefix),
                *("--node-id", f"node{number}", "--hostname", f"h{number}"),
                *("--state-dir", str(self.directory / "state")),
                *("--socket", str(self.directory / "run/docker.sock")),
                *("--cni-conf-dir", str(self.directory / "net.d")),
                *("--cni-bin-dir", str(lab.bin_dir)),
            ],
            env={**os.environ, **lab.environment(number)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def log(self) -> str:
        return (self.directory / "log").read_text()[-3000:]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)
        for status in (self.directory / "run").glob("*/pods/*/status.json"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def hosts() -> Iterator[list[SchedulerHost]]:
    directory = Path(tempfile.mkdtemp(prefix="fm-"))
    lab = Lab(LabSpec(f"sc{secrets.token_hex(3)}", 2, 0), directory)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(lab.down)
        lab.up()
        made = []
        for number in lab.host_numbers:
            host = SchedulerHost(lab, number)
            stack.callback(host.stop)
            made.append(host)
        yield made


def statuses(lab: Lab) -> dict[str, tuple[str, TaskStatus]]:
    found = json.loads(lab.etcd.ctl("get", "--prefix", f"{KEYS.prefix}/status/", "-w", "json"))
    known = {}
    for kv in found.get("kvs", ()):
        _, node, task = base64.b64decode(kv["key"]).decode().rsplit("/", 2)
        known[task] = node, codec.decode_status(base64.b64decode(kv["value"]), 0)
    return known


def until(hosts: list[SchedulerHost], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        logs = "\n".join(host.log() for host in hosts)
        assert time.monotonic() < deadline, f"{statuses(hosts[0].lab)}\n{logs}"
        time.sleep(0.1)


def test_tasks_of_a_service_reach_each_other_across_hosts(hosts: list[SchedulerHost]) -> None:
    lab = hosts[0].lab
    task = {"ContainerSpec": {"Image": "host", "Command": ["sleep", "1000000"]}}
    mode = {"Replicated": {"Replicas": 4}}
    spec = parse(ServiceSpec, {"Name": "web", "Mode": mode, "TaskTemplate": task})
    service = Service(id="svc", spec=spec)

    def put(key: str, value: bytes) -> None:
        lab.etcd.ctl("put", key, value.decode())

    def nodes() -> list[str]:
        found = lab.etcd.ctl("get", "--prefix", f"{KEYS.prefix}/node-status/", "--keys-only")
        return found.split()

    def running() -> dict[str, tuple[str, TaskStatus]]:
        known = statuses(lab)
        return {t: (n, s) for t, (n, s) in known.items() if s.state is TaskState.RUNNING}

    until(hosts, lambda: len(nodes()) == 2)
    put(KEYS.spec("svc", 1), codec.encode(spec.task_template))
    put(KEYS.service("svc"), codec.encode(service))
    until(hosts, lambda: len(running()) == 4)
    found = list(running().values())
    assert {node for node, _ in found} == {"node1", "node2"}
    addresses = [status.addresses[0] for _, status in found]
    assert len(set(addresses)) == 4
    for _, status in found:
        for address in addresses:
            ping = ["ping", "-c", "1", "-W", "20", address]
            subprocess.run(
                ["nsenter", f"--net=/proc/{status.pid}/ns/net", *ping],
                check=True,
                stdout=subprocess.DEVNULL,
            )
    lab.etcd.ctl("del", KEYS.service("svc"))
    until(hosts, lambda: not statuses(lab))
    for host in hosts:
        listed = subprocess.check_output(
            ["ip", "-n", lab.names.host(host.number), "-br", "link"], text=True
        )
        assert "veth" not in listed, listed
