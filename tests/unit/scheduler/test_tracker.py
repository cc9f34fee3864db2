# SPDX-License-Identifier: Apache-2.0
"""What the leader derives from the view: room on nodes, silence, what to plan anew."""

from __future__ import annotations

import time
from math import inf

from etcd.client import KeyValue
from scheduler.manager.slots import DOWN, GONE, READY
from scheduler.manager.tracker import GRACE, MOST_SILENT, Tracker
from scheduler.model.base import Document, parse
from scheduler.model.node import NodeRecord, NodeReport
from scheduler.model.service import Service, TaskSpec
from scheduler.model.task import Task, TaskState, TaskStatus
from scheduler.store import codec
from scheduler.store.follow import Batch
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

KEYS = Keys("/s")


class World:
    """A view that is told of keys, and its tracker."""

    def __init__(self, nodes: int) -> None:
        self.view = ClusterView(KEYS)
        self.tracker = Tracker(self.view)
        self.view.listeners.append(self.tracker.changed)
        self.revision = 0
        for number in range(nodes):
            self.put(KEYS.node(f"n{number}"), parse(NodeRecord, {"ID": f"n{number}"}))
            self.report(f"n{number}")

    def report(self, node: str) -> None:
        resources = {"NanoCPUs": 10, "MemoryBytes": 10}
        report = {"ID": node, "Description": {"Resources": resources}}
        self.put(KEYS.node_status(node), parse(NodeReport, report))

    def put(self, key: str, value: Document | bytes | None) -> None:
        self.revision += 1
        data = codec.encode(value) if isinstance(value, Document) else value
        kv = KeyValue(key, data, self.revision) if data is not None else None
        self.view.take(Batch(((key, kv),), self.revision))


def test_a_silent_node_is_down_after_a_moment_but_not_when_most_are() -> None:
    world = World(6)
    tracker, task = world.tracker, Task("t", "s", 1, 1, "n0")
    assert tracker.node_health(task) == READY
    world.put(KEYS.node_status("n0"), None)
    assert tracker.grace == GRACE
    tracker.silent["n0"] = time.monotonic() - GRACE
    assert tracker.node_health(task) == DOWN
    for number in (1, 2, 3):
        world.put(KEYS.node_status(f"n{number}"), None)
    assert tracker.grace == MOST_SILENT
    assert tracker.node_health(task) == READY
    for number in (4, 5):
        world.put(KEYS.node_status(f"n{number}"), None)
    assert tracker.grace == inf
    assert tracker.next_silence() is None
    world.report("n0")
    assert tracker.node_health(task) == READY
    world.put(KEYS.node("n0"), None)
    assert tracker.node_health(task) == GONE


def test_one_of_few_nodes_is_down_after_a_moment_too() -> None:
    world = World(3)
    for number in (0, 1):
        world.put(KEYS.node_status(f"n{number}"), None)
    assert world.tracker.grace == GRACE


def test_what_a_task_takes_of_its_node_is_given_back_when_it_ends() -> None:
    world = World(1)
    service = {"ID": "s", "Spec": {"Name": "web"}}
    template = {"Resources": {"Reservations": {"NanoCPUs": 4, "MemoryBytes": 5}}}
    world.put(KEYS.spec("s", 1), parse(TaskSpec, template))
    world.put(KEYS.service("s"), parse(Service, service))
    task = Task("t", "s", 1, 1, "n0")
    world.put(KEYS.task("n0", "t"), codec.encode_task(task))
    node = world.tracker.table.nodes["n0"]
    assert (node.used_cpus, node.used_memory, node.load) == (4, 5, 1)
    world.report("n0")  # it is described anew: what is taken stays
    node = world.tracker.table.nodes["n0"]
    assert (node.used_cpus, node.load) == (4, 1)
    assert world.tracker.dirty["s"] is None
    world.tracker.dirty.clear()
    failed = codec.encode_status(TaskStatus(TaskState.FAILED))
    world.put(KEYS.status("n0", "t"), failed)
    assert (node.used_cpus, node.used_memory, node.load) == (0, 0, 0)
    assert world.tracker.dirty == {"s": {"1"}}
    demand = world.tracker.demand(task)
    assert demand is not None
    assert world.tracker.avoiding_failures("s", 1, demand).failures == {"n0": 1}
    world.put(KEYS.task("n0", "t"), None)
    assert world.tracker.places == {}
