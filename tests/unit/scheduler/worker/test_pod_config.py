# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from scheduler.errors import SpecError
from scheduler.model.base import parse
from scheduler.model.service import TaskSpec
from scheduler.model.task import HostPort, Task
from scheduler.runtime.protocol import PodConfig, PortMapping
from scheduler.worker.pod_config import Surroundings, grace_period, pod_config

AROUND = Surroundings("n1", "box", "web", data={"s": "c2VjcmV0"})


def made(container: dict[str, Any] | None = None, **more: Any) -> PodConfig:
    spec = {"ContainerSpec": {"Image": "host", **(container or {})}, **more}
    ports = (HostPort("udp", 53, 5353),)
    task = Task("t" * 25, "svc", 2, 1, "n1", host_ports=ports)
    return pod_config(task, parse(TaskSpec, spec), AROUND)


def test_a_task_becomes_a_pod() -> None:
    pod = made(
        {"Hosts": ["10.0.0.1 a b", "c:10.0.0.2"], "Init": False, "StopSignal": "SIGHUP"},
        Resources={"Limits": {"NanoCPUs": 5, "MemoryBytes": 6, "Pids": 7}},
        LogDriver={"Name": "json-file", "Options": {"max-size": "2k", "max-file": "5"}},
    )
    assert (pod.name, pod.hostname) == ("web.2", "t" * 12)
    assert pod.hosts == (("10.0.0.1", "a b"), ("10.0.0.2", "c"))
    assert pod.ports == (PortMapping(53, 5353, "udp"),)
    main = pod.containers[0]
    assert (main.init, main.stop_signal) == (False, "SIGHUP")
    assert (main.limits.nano_cpus, main.limits.memory, main.limits.pids) == (5, 6, 7)
    assert (main.log.max_bytes, main.log.max_files) == (2048, 5)


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"Env": ["A={{.Node.Platform}}"]}, "placeholder"),
        ({"Sysctls": {"a": "b"}}, "Sysctls is not supported"),
        ({"Hosts": ["nonsense"]}, "neither"),
        ({"Hostname": "x" * 64}, "longer than 63"),
        (
            {"Secrets": [{"File": {"Name": "k"}, "SecretID": "x", "SecretName": "key"}]},
            "key: there is no secret",
        ),
        (
            {"Secrets": [{"File": {"Name": "k", "UID": "bob"}, "SecretID": "s"}]},
            "no number of a user",
        ),
    ],
)
def test_what_can_not_be_run_is_refused_by_name(container: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        made(container)


def test_the_grace_period_is_docker_s_unless_it_is_given() -> None:
    assert grace_period(parse(TaskSpec, {})) == 10.0
    given = {"ContainerSpec": {"StopGracePeriod": 500_000_000}}
    assert grace_period(parse(TaskSpec, given)) == 0.5
