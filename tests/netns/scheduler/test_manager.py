# SPDX-License-Identifier: Apache-2.0
"""Services become tasks: managers and a real etcd, with workers that pretend to run."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.scheduler.workers import Behaviour, SimulatedWorkers
from etcd.connect import EtcdSettings
from lab.etcd_server import EtcdServer
from scheduler.manager.role import run_by_role
from scheduler.model.task import Task, TaskState
from scheduler.settings import Settings
from scheduler.store.documents import Documents
from scheduler.store.view import ClusterView
from tests.netns.etcd.running_client import client, run
from tests.netns.scheduler.running_managers import (
    KEYS,
    manager,
    per_node,
    service_spec,
    until,
    updated,
    watched,
)

NODES = ["n1", "n2", "n3"]


def test_create_scale_update_rollback_remove(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, NODES) as workers,
                watched(user) as view,
                manager(db),
            ):
                web = await documents.create_service(service_spec(replicas=6))
                await until(lambda: len(workers.running) == 6, "6 tasks run")
                assert set(per_node(workers).values()) == {2}

                every = await documents.create_service(service_spec("every", None))
                await until(lambda: len(per_node(workers, every.id)) == 3, "one on each node")
                await documents.remove(
                    "service", "every", KEYS.service(every.id), KEYS.specs_of(every.id)
                )
                await until(lambda: not per_node(workers, every.id), "the global service ends")

                await until(lambda: web.id in view.services, "the view has it")
                web = await updated(documents, view, web, service_spec(replicas=3))
                await until(lambda: len(workers.running) == 3, "3 tasks run")
                assert set(per_node(workers).values()) == {1}
                await until(lambda: len(view.tasks_of(web.id)) == 3, "the others are forgotten")

                quick = {"Parallelism": 1, "Monitor": 1_000_000, "Order": "start-first"}
                two = service_spec(
                    replicas=3,
                    TaskTemplate={"ContainerSpec": {"Image": "two"}},
                    UpdateConfig=quick,
                    RollbackConfig=quick,
                )
                web = await updated(documents, view, web, two)
                fewest = 3

                def completed() -> bool:
                    nonlocal fewest
                    fewest = min(fewest, len(workers.running))
                    status = view.services[web.id].update_status
                    return status is not None and status.state == "completed"

                await until(completed, "the update is completed")
                assert fewest == 3, "start-first: never fewer than before"
                assert {task.spec_version for task in workers.running.values()} == {2}

                workers.behaviour = failing(3)
                bad = service_spec(
                    replicas=3,
                    TaskTemplate={"ContainerSpec": {"Image": "bad"}},
                    UpdateConfig={"FailureAction": "rollback", "Monitor": 1_000_000},
                    RollbackConfig=quick,
                )
                web = await updated(documents, view, web, bad)

                def rolled_back() -> bool:
                    status = view.services[web.id].update_status
                    return status is not None and status.state == "rollback_completed"

                await until(rolled_back, "it is rolled back")
                numbers = {number for of, number in view.specs if of == web.id}
                assert numbers >= {2, 3}, "the current template and the one before it stay"
                await until(lambda: len(workers.running) == 3, "3 tasks run")
                assert {task.spec_version for task in workers.running.values()} == {2}

                await documents.remove(
                    "service", "web", KEYS.service(web.id), KEYS.specs_of(web.id)
                )
                await until(lambda: not view.tasks, "all tasks are forgotten")
                assert not workers.running
                assert not view.statuses

    run(story())


def failing(version: int) -> Behaviour:
    """Tasks with this template fail."""

    def behaviour(task: Task) -> TaskState:
        return TaskState.FAILED if task.spec_version == version else TaskState.RUNNING

    return behaviour


def test_a_silent_node_is_replaced_and_its_stale_tasks_stop_when_it_is_back(
    etcd: EtcdServer,
) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, NODES) as workers,
                watched(user) as view,
                manager(db),
            ):
                await documents.create_service(service_spec(replicas=6))
                await until(lambda: len(workers.running) == 6, "6 tasks run")
                before = set(workers.running)
                await workers.silence("n2")
                started = asyncio.get_running_loop().time()
                await until(
                    lambda: sum(per_node(workers)[node] for node in ("n1", "n3")) == 6,
                    "its tasks run elsewhere",
                )
                assert (
                    asyncio.get_running_loop().time() - started < 30
                )  # 15 where nothing else runs
                assert len(set(workers.running) & before) == 6, "the others went on"
                await workers.back("n2")
                await until(lambda: not per_node(workers)["n2"], "its stale tasks are stopped")
                assert len(workers.running) == 6
                more = await documents.create_service(service_spec("more", 2))
                await until(lambda: per_node(workers, more.id)["n2"], "new work goes there")
                key = KEYS.node("n1")
                drained = view.nodes["n1"].changed(
                    spec=view.nodes["n1"].spec.changed(availability="drain")
                )
                await documents.replace(key, drained, view.version(key))
                await until(
                    lambda: not per_node(workers)["n1"] and len(workers.running) == 8,
                    "a drained node is left",
                )

    run(story())


def test_what_finds_no_node_says_why_and_starts_when_there_is_one(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, NODES, memory=1000) as workers,
                watched(user) as view,
                manager(db),
            ):
                big = {"Resources": {"Reservations": {"MemoryBytes": 600}}}
                await documents.create_service(service_spec(replicas=4, TaskTemplate=big))
                await until(lambda: len(workers.running) == 3, "3 find room")
                await until(lambda: view.tasks_on(""), "one waits")
                (waiting,) = view.tasks_on("").values()
                assert waiting.reason == "no suitable node (insufficient resources on 3 nodes)"
                async with SimulatedWorkers(user, KEYS, ["n4"], memory=1000) as other:
                    await until(lambda: len(other.running) == 1, "the new node takes it")
                    await until(lambda: not view.tasks_on(""), "nothing waits")

    run(story())


def test_another_framework_is_granted_resources_until_it_gives_them_back(
    etcd: EtcdServer,
) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, NODES, memory=1000) as workers,
                watched(user) as view,
                manager(db),
            ):
                half = b'{"MemoryBytes":600,"Count":3}'
                await user.put(KEYS.offer("other/a"), half)
                await user.put(KEYS.offer("other/b"), half)
                await user.put(KEYS.offer("other/c"), b'{"Memory":1}')
                await until(lambda: len(view.grants) == 3, "all are answered")
                assert set(view.grants["other/a"]["Nodes"]) == set(NODES)
                assert view.grants["other/b"]["Reason"] == (
                    "no suitable node (insufficient resources on 3 nodes)"
                )
                assert "Memory is not supported" in view.grants["other/c"]["Reason"]
                big = {"Resources": {"Reservations": {"MemoryBytes": 600}}}
                await documents.create_service(service_spec(replicas=3, TaskTemplate=big))
                await until(lambda: len(view.tasks_on("")) == 3, "services get none of it")
                await user.delete(KEYS.offer("other/b"))
                await user.delete(KEYS.offer("other/a"))
                await until(lambda: len(workers.running) == 3, "it is given back")
                assert set(view.grants) == {"other/c"}

    run(story())


def test_a_new_leader_disturbs_no_task_and_two_do_no_double_work(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as first, client(etcd) as second, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, NODES) as workers,
                watched(user) as view,
                manager(first, "m1") as leading,
            ):
                await documents.create_service(service_spec(replicas=9))
                await until(lambda: len(workers.running) == 9, "9 tasks run")
                before = set(workers.running)
                async with manager(second, "m2"):
                    await until(lambda: view.leader == "m1", "m1 leads")
                    # m1 is frozen, as it were: its key goes, and it does not know yet
                    await user.delete(KEYS.leader)
                    await until(lambda: view.leader == "m2", "m2 leads")
                    more = await documents.create_service(service_spec("more", 9))
                    await until(lambda: len(per_node(workers, more.id)) == 3, "m2 works")
                    await until(lambda: len(workers.running) == 18, "18 tasks run")
                    await asyncio.sleep(1)
                    assert len(view.tasks) == 18, "no task was made twice"
                    assert before <= set(workers.running)
                    assert not workers.stopped
                    leading.cancel()

    run(story())


def test_the_leader_goes_on_after_etcd_was_away(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents = Documents(user, KEYS)
            async with SimulatedWorkers(user, KEYS, NODES) as workers, manager(db):
                await documents.create_service(service_spec(replicas=9))
                await until(lambda: len(workers.running) == 9, "9 tasks run")
                before = set(workers.running)
                etcd.kill()
                await asyncio.sleep(8)  # longer than every etcd lease
                etcd.start()
                async with client(etcd) as again:
                    more = await Documents(again, KEYS).create_service(service_spec("more", 3))
                await until(lambda: len(per_node(workers, more.id)) == 3, "it leads again")
                assert before <= set(workers.running), "healthy tasks went on"
                assert not workers.stopped

    run(story())


def test_a_node_is_promoted_and_demoted_at_run_time(etcd: EtcdServer) -> None:
    async def story() -> None:
        settings = Settings(EtcdSettings((etcd.client_url,), KEYS.prefix), node_id="n1")
        async with (
            client(etcd) as db,
            client(etcd) as user,
            SimulatedWorkers(user, KEYS, ["n1"]),
            watched(user) as view,
        ):
            running = asyncio.create_task(run_by_role(settings, db))
            documents, key = Documents(user, KEYS), KEYS.node("n1")
            await until(lambda: "n1" in view.nodes, "the node is known")
            for role, leader in (("manager", "n1"), ("worker", ""), ("manager", "n1")):
                spec = view.nodes["n1"].spec.changed(role=role)
                changed = view.nodes["n1"].changed(spec=spec)
                at = await documents.replace(key, changed, view.version(key))
                await until(partial(_leads, view, leader), f"{role} leads or not")
                await until(partial(_is_seen, view, key, at), "the view has the role")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await until(lambda: not view.leader, "it stops")

    run(story())


def _leads(view: ClusterView, leader: str) -> bool:
    return view.leader == leader


def _is_seen(view: ClusterView, key: str, version: int) -> bool:
    return view.version(key) >= version
