# SPDX-License-Identifier: Apache-2.0
"""Which node a task gets, and why none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import SpecError
from scheduler.model.base import parse
from scheduler.model.service import ServiceSpec
from scheduler.model.task import HostPort
from scheduler.placement.constraints import parse_constraint
from scheduler.placement.demand import Demand, demand_of
from scheduler.placement.filters import refused_for_its_tasks, refused_for_what_it_is
from scheduler.placement.node_state import NodeState
from scheduler.placement.node_table import NodeTable
from scheduler.placement.place import place


def table_of(*nodes: NodeState) -> NodeTable:
    table = NodeTable()
    for node in nodes:
        table.put(node)
    return table


def node(name: str, **more: Any) -> NodeState:
    return NodeState(name, hostname=f"host-{name}", cpus=4_000, memory=4_000, **more)


def demand(service: str = "s", **template: Any) -> Demand:
    labels = template.pop("Labels", {})
    ports = template.pop("Ports", [])
    spec = parse(
        ServiceSpec,
        {"Labels": labels, "TaskTemplate": template, "EndpointSpec": {"Ports": ports}},
    )
    return demand_of(service, spec.task_template, spec)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("node.labels.zone==east", {"a"}),
        ("node.labels.zone != east", {"b", "c"}),
        ("node.labels.zone==EA*", {"a"}),
        ("node.id==b", {"b"}),
        ("node.hostname==host-c", {"c"}),
        ("node.role==manager", {"b"}),
        ("node.platform.arch==x86_64", {"a", "c"}),
        ("engine.labels.disk==ssd", {"c"}),
    ],
)
def test_constraints(text: str, allowed: set[str]) -> None:
    nodes = [
        node("a", labels={"zone": "East"}, architecture="amd64"),
        node("b", role="manager", labels={"zone": "west"}, architecture="arm64"),
        node("c", engine_labels={"disk": "ssd"}, architecture="x86_64"),
    ]
    constraint = parse_constraint(text)
    assert {one.id for one in nodes if constraint.allows(one)} == allowed


@pytest.mark.parametrize("text", ["", "node.id", "node.id=b", "nodes.id==b", "node.labels.==x"])
def test_a_wrong_constraint_is_named(text: str) -> None:
    with pytest.raises(SpecError, match="constraint"):
        parse_constraint(text)


def test_the_reason_says_how_many_nodes_failed_which_filter() -> None:
    table = table_of(
        node("a", availability="drain"),
        node("b", ready=False),
        node("c", labels={"x": "1"}),
        node("d"),
        node("e"),
    )
    big = demand(
        Resources={"Reservations": {"MemoryBytes": 5000}},
        Placement={"Constraints": ["node.labels.x!=1"]},
    )
    assert place(table, big, 1).reason == (
        "no suitable node (insufficient resources on 2 nodes; node is down on 1 node; "
        "not available for new tasks on 1 node; scheduling constraints not satisfied on 1 node)"
    )
    assert place(NodeTable(), big, 1).reason == "no suitable node (there are no nodes)"


def test_host_ports_and_replicas_per_node() -> None:
    table = table_of(node("a"), node("b"))
    ports = [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]
    wanted = demand(Ports=ports)
    assert wanted.ports == (HostPort("tcp", 8080, 80),)
    placed = place(table, wanted, 3)
    assert {one.id for one in placed.nodes} == {"a", "b"}
    assert placed.reason == "no suitable node (host-mode port already in use on 2 nodes)"
    table.give_back(table.nodes["a"], wanted)
    assert [one.id for one in place(table, wanted, 1).nodes] == ["a"]
    placed = place(table, demand("t", Placement={"MaxReplicas": 2}), 5)
    assert Counter(one.id for one in placed.nodes) == {"a": 2, "b": 2}
    assert placed.reason == "no suitable node (max replicas per node limit reached on 2 nodes)"


def test_spread_preferences_count_the_label_before_the_node() -> None:
    zones = {"a": "east", "b": "east", "c": "east", "d": "west"}
    table = table_of(*(node(name, labels={"zone": zone}) for name, zone in zones.items()))
    wish = {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]}
    placed = place(table, demand(Placement=wish), 6)
    assert Counter(zones[one.id] for one in placed.nodes) == {"east": 3, "west": 3}
    assert Counter(one.id for one in placed.nodes) == {"a": 1, "b": 1, "c": 1, "d": 3}


def test_binpack_fills_one_node_before_the_next() -> None:
    table = table_of(node("a"), node("b"))
    wanted = demand(
        Labels={"flatmesh.placement": "binpack"}, Resources={"Reservations": {"NanoCPUs": 1000}}
    )
    assert [one.id for one in place(table, wanted, 6).nodes] == [*"aaaa", *"bb"]


def test_a_node_on_which_the_template_failed_is_the_last_choice() -> None:
    table = table_of(node("a"), node("b"))
    wanted = Demand("s", failures={"a": 1})
    assert [one.id for one in place(table, wanted, 2).nodes] == ["b", "b"]
    assert place(table_of(node("a")), wanted, 1).nodes, "but it is one"


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans()), max_size=12),
    st.integers(1, 30),
)
def test_no_node_gets_more_than_it_has_and_tasks_are_spread(
    groups: list[tuple[int, int, bool]], nodes: int
) -> None:
    table = table_of(*(NodeState(f"n{i}", cpus=20, memory=100) for i in range(nodes)))
    for number, (tasks, cpus, port) in enumerate(groups):
        ports = (HostPort("tcp", 8000 + number, 80),) if port else ()
        wanted = Demand(f"s{number}", cpus=cpus, ports=ports)
        placed = place(table, wanted, tasks)
        for one in table.nodes.values():
            assert one.used_cpus <= one.cpus
            assert one.services[wanted.service] <= (1 if port else tasks)
        if len(placed.nodes) < tasks:
            assert placed.reason
            assert all(refused_for_its_tasks(one, wanted) for one in table.nodes.values())
        elif not cpus:
            counts = [one.services[wanted.service] for one in table.nodes.values()]
            assert max(counts) - min(counts) <= 1
        assert not any(refused_for_what_it_is(one, wanted.filter) for one in placed.nodes)
    assert sum(one.load for one in table.nodes.values()) == sum(
        sum(one.services.values()) for one in table.nodes.values()
    )
