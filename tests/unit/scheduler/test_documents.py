# SPDX-License-Identifier: Apache-2.0
"""Specs as the docker client writes them; tasks and their states as they are in etcd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from etcd.client import KeyValue
from scheduler.errors import SpecError
from scheduler.main import command
from scheduler.model.base import parse
from scheduler.model.container import ContainerSpec
from scheduler.model.service import Service, ServiceSpec
from scheduler.model.task import HostPort, Task, TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.documents import new_id, next_version
from scheduler.store.follow import Batch
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

BY_DOCKER: dict[str, Any] = {  # what docker 20.10 sends for `service create --name web ...`
    "Name": "web",
    "Labels": {},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "nginx:latest",
            "Args": ["nginx", "-g", "daemon off;"],
            "Init": False,
            "StopGracePeriod": 10_000_000_000,
            "DNSConfig": {},
            "Isolation": "default",
        },
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000},
            "Reservations": {"MemoryBytes": 1048576},
        },
        "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0},
        "Placement": {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
        "Networks": None,
        "ForceUpdate": 0,
        "Runtime": "container",
    },
    "Mode": {"Replicated": {"Replicas": 3}},
    "UpdateConfig": {"Parallelism": 1, "FailureAction": "pause", "Order": "stop-first"},
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
        ],
    },
}


def test_a_spec_of_the_docker_client_is_read_and_written_with_its_names() -> None:
    spec = parse(ServiceSpec, BY_DOCKER)
    assert spec.task_template.resources.limits.nano_cpus == 500_000_000
    assert Service(id="s", spec=spec).replicas == 3
    written = spec.document()
    assert written["TaskTemplate"]["ContainerSpec"]["DNSConfig"] == {}
    assert written["TaskTemplate"]["Resources"]["Limits"] == {"NanoCPUs": 500_000_000}
    assert parse(ServiceSpec, json.loads(json.dumps(written))) == spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Privileges": {"SELinuxContext": {"Disable": True}}}, "Privileges is not supported"),
        ({"Mounts": [{"Type": "volume", "Source": "v", "Target": "/v"}]}, "Mounts.0.Type"),
        ({"Nonsense": 1}, "Nonsense is not supported: leave it out"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], said: str) -> None:
    container = {**BY_DOCKER["TaskTemplate"]["ContainerSpec"], **change}
    template = {**BY_DOCKER["TaskTemplate"], "ContainerSpec": container}
    with pytest.raises(SpecError) as refused:
        parse(ServiceSpec, {**BY_DOCKER, "TaskTemplate": template})
    assert f"TaskTemplate.ContainerSpec.{said}" in str(refused.value)


def test_zero_values_of_what_is_not_supported_are_no_wish() -> None:
    unset = {"Image": "x", "Privileges": {"CredentialSpec": None}, "OomScoreAdj": 0}
    assert parse(ContainerSpec, unset).image == "x"


PORTS = st.builds(HostPort, st.sampled_from(["tcp", "udp"]), st.integers(1), st.integers(1))


@given(st.sampled_from(TaskState), st.integers(0, 9), st.text(), st.lists(PORTS, max_size=2))
def test_a_task_is_read_as_it_was_written(
    desired: TaskState, slot: int, reason: str, ports: list[HostPort]
) -> None:
    task = Task(
        *("t", "s", slot, 3, "n"),
        desired=desired,
        reason=reason,
        host_ports=tuple(ports),
        version=7,
    )
    assert codec.decode_task(codec.encode_task(task), "t", "n", 7) == task


@given(st.sampled_from(TaskState), st.none() | st.integers(0, 255), st.text())
def test_a_status_is_read_as_it_was_written(
    state: TaskState, exit_code: int | None, message: str
) -> None:
    status = TaskStatus(state, 1.5, message, exit_code=exit_code, addresses=("10.5.1.2",))
    assert codec.decode_status(codec.encode_status(status), 0) == status


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"ServiceID":"s","Slot":{}}', b"\xff"])
def test_a_broken_value_is_refused_in_one_line(value: bytes) -> None:
    with pytest.raises(SpecError):
        codec.decode_task(value, "t", "n", 1)


def test_a_changed_template_gets_the_next_number_and_an_update() -> None:
    service = Service(id="s", spec=parse(ServiceSpec, BY_DOCKER))
    more = {**BY_DOCKER, "Mode": {"Replicated": {"Replicas": 5}}}
    scaled = next_version(service, parse(ServiceSpec, more))
    assert (scaled.spec_version, scaled.update_status) == (1, None)
    forced = {**BY_DOCKER, "TaskTemplate": {**BY_DOCKER["TaskTemplate"], "ForceUpdate": 1}}
    updated = next_version(scaled, parse(ServiceSpec, forced))
    assert updated.spec_version == 2
    assert updated.update_status is not None
    assert updated.update_status.state == "updating"


def test_own_writes_are_seen_at_once_and_not_undone_by_what_the_watch_tells_later() -> None:
    keys = Keys("/s")
    view = ClusterView(keys)
    task = Task("t", "web", 1, 1, "n1")
    key, value = keys.task("n1", "t"), codec.encode_task(task)
    view.take(Batch((), 10, complete=True))
    view.wrote([(key, value)], [], 11)
    view.wrote([], [key], 12)
    assert view.tasks == {}
    view.take(Batch(((key, KeyValue(key, value, 11)),), 11))
    assert view.tasks == {}
    view.take(Batch(((key, None),), 12))
    view.take(Batch(((key, KeyValue(key, value, 13)),), 13))
    assert view.tasks["t"].version == 13
    assert view.tasks_on("n1") == view.tasks_of("web") == view.tasks


def test_a_pending_task_that_is_assigned_is_one_task() -> None:
    keys = Keys("/s")
    view = ClusterView(keys)
    value = codec.encode_task(Task("t", "", 0, 1))
    waiting, key = keys.pending("t"), keys.task("n1", "t")
    view.take(Batch(((waiting, KeyValue(waiting, value, 5)),), 5, complete=True))
    assert view.tasks_on("")
    view.take(Batch(((key, KeyValue(key, value, 6)), (waiting, None)), 6))
    assert view.tasks["t"].node == "n1"
    assert not view.tasks_on("")
    view.take(Batch((), 7, complete=True))
    assert not view.tasks
    assert not view.by_service


def test_ids_look_like_dockers() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len(new_id()) == 25


def test_run_wants_to_know_what_to_run() -> None:
    answer = CliRunner().invoke(command, ["run"])
    assert answer.exit_code == 2
    assert "give --manager, --worker or both" in answer.output
